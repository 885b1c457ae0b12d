-- Append-only. `slots` are sums by quarter of an hour, which is what every time zone's day is made of, those of spend
-- and calls also by longer spans in UTC: span_ms is the length of a slot. Each batch adds rows of its own, which
-- `compact` merges; what is older than `ledger.unmerged_ms` is merged. `path` is a chain of scopes without the types
-- that are too many to sum by.
CREATE TABLE IF NOT EXISTS ledger (id VARCHAR NOT NULL, layout INTEGER NOT NULL, epoch VARCHAR NOT NULL,
    sequence BIGINT NOT NULL, event_id VARCHAR NOT NULL, refusal_id VARCHAR NOT NULL, unmerged_ms BIGINT NOT NULL);

-- era: the number of the epoch, in the order in which they came.
CREATE TABLE IF NOT EXISTS eras (epoch VARCHAR NOT NULL, era INTEGER NOT NULL);

CREATE TABLE IF NOT EXISTS events (identity VARCHAR NOT NULL, event_id VARCHAR NOT NULL, epoch VARCHAR NOT NULL,
    sequence BIGINT NOT NULL, at_ms BIGINT NOT NULL, type VARCHAR NOT NULL, hold_id VARCHAR, request_id VARCHAR,
    fields VARCHAR NOT NULL, era INTEGER NOT NULL);

-- What events of type state say; it stays when they are forgotten.
CREATE TABLE IF NOT EXISTS states (era INTEGER NOT NULL, sequence BIGINT NOT NULL, at_ms BIGINT NOT NULL,
    account_id VARCHAR NOT NULL, was INTEGER NOT NULL, now INTEGER NOT NULL, spent_nano BIGINT NOT NULL,
    limit_nano BIGINT NOT NULL, cause VARCHAR NOT NULL, why VARCHAR NOT NULL);

CREATE TABLE IF NOT EXISTS calls (identity VARCHAR NOT NULL, at_ms BIGINT NOT NULL, kind VARCHAR NOT NULL,
    outcome VARCHAR NOT NULL, request_id VARCHAR, hold_id VARCHAR NOT NULL, surface VARCHAR, operation VARCHAR,
    stream BOOLEAN NOT NULL, key_id VARCHAR, scopes VARCHAR[] NOT NULL, agent VARCHAR, team VARCHAR, provider VARCHAR,
    model_requested VARCHAR, model_served VARCHAR, downgraded BOOLEAN NOT NULL, state VARCHAR, basis VARCHAR,
    why VARCHAR, posted_nano BIGINT NOT NULL, cost_nano BIGINT NOT NULL, held_nano BIGINT NOT NULL,
    saved_nano BIGINT NOT NULL, input_tokens BIGINT NOT NULL, cached_input_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL, reasoning_tokens BIGINT NOT NULL,
    started_ms BIGINT, latency_ms BIGINT, upstream_ms BIGINT, refusal VARCHAR, account_id VARCHAR,
    path VARCHAR NOT NULL);
ALTER TABLE calls ADD COLUMN IF NOT EXISTS balances VARCHAR;

-- digest: of all its columns.
CREATE TABLE IF NOT EXISTS charge_kinds (id INTEGER NOT NULL, digest VARCHAR NOT NULL, {kinds});

CREATE TABLE IF NOT EXISTS charge_chains (id INTEGER NOT NULL, digest VARCHAR NOT NULL, path VARCHAR NOT NULL,
    {chains});

CREATE TABLE IF NOT EXISTS charge_rows (kind INTEGER NOT NULL, chain INTEGER NOT NULL, identity VARCHAR NOT NULL,
    number INTEGER NOT NULL, hold_id VARCHAR NOT NULL, request_id VARCHAR, start_ms BIGINT NOT NULL,
    end_ms BIGINT NOT NULL, recorded_ms BIGINT NOT NULL, cost DECIMAL(38, 12) NOT NULL,
    rounding DECIMAL(38, 12) NOT NULL, quantity DECIMAL(38, 12), unit_price DECIMAL(38, 18));

CREATE OR REPLACE VIEW charges AS
SELECT {columns}, chain.path AS path
FROM charge_rows AS record
JOIN charge_kinds AS kind ON kind.id = record.kind
JOIN charge_chains AS chain ON chain.id = record.chain;

CREATE TABLE IF NOT EXISTS paths (path VARCHAR NOT NULL, type VARCHAR NOT NULL, key VARCHAR NOT NULL);

CREATE TABLE IF NOT EXISTS spend_slots (span_ms BIGINT NOT NULL, slot_ms BIGINT NOT NULL, path VARCHAR NOT NULL,
    provider VARCHAR,
    service VARCHAR, category VARCHAR, meter VARCHAR, model VARCHAR, model_requested VARCHAR, basis VARCHAR,
    source VARCHAR, cost DECIMAL(38, 12) NOT NULL, list_cost DECIMAL(38, 12) NOT NULL,
    quantity DECIMAL(38, 12) NOT NULL);

CREATE TABLE IF NOT EXISTS call_slots (span_ms BIGINT NOT NULL, slot_ms BIGINT NOT NULL, path VARCHAR NOT NULL,
    provider VARCHAR, model VARCHAR,
    model_requested VARCHAR, state VARCHAR, outcome VARCHAR NOT NULL, kind VARCHAR NOT NULL, refusal VARCHAR,
    downgraded BOOLEAN NOT NULL, calls BIGINT NOT NULL, refused BIGINT NOT NULL, failed BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL, saved_nano BIGINT NOT NULL, avoided_nano BIGINT NOT NULL,
    unconfirmed_nano BIGINT NOT NULL, input_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL,
    latency_ms BIGINT NOT NULL, timed BIGINT NOT NULL);

CREATE TABLE IF NOT EXISTS account_slots (slot_ms BIGINT NOT NULL, account_id VARCHAR NOT NULL,
    posted_nano BIGINT NOT NULL);
