-- Append-only. There are no transactions: a row counts if its `batch` was committed, by a row of `positions` that is
-- written last; numbers between `after` and `batch` there were given to attempts that failed, and never count.
-- The number is part of every sorting key, so that nothing of a failed attempt can replace what counts.
-- non_replicated_deduplication_window: a client that sends an insert again, as its connection broke, adds nothing.
CREATE TABLE IF NOT EXISTS ledger (id String, layout UInt32)
ENGINE = ReplacingMergeTree ORDER BY id;

-- merged_to, merged_days: sums of batches up to this one count only where they are merged, and on these days (epoch
-- milliseconds) not at all: they were merged once more, into later rows.
CREATE TABLE IF NOT EXISTS positions (batch UInt64, after UInt64, merged_to UInt64, merged_days Array(Int64),
    epoch String, sequence Int64, event_id String, refusal_id String)
ENGINE = ReplacingMergeTree ORDER BY batch;

-- era: the number of the epoch, in the order in which they came.
CREATE TABLE IF NOT EXISTS eras (epoch String, era UInt32)
ENGINE = ReplacingMergeTree ORDER BY epoch;

CREATE TABLE IF NOT EXISTS events (batch UInt64, identity String, event_id String, epoch LowCardinality(String),
    sequence Int64, at_ms Int64, type LowCardinality(String), hold_id Nullable(String), request_id Nullable(String),
    fields String CODEC(ZSTD(3)), era UInt32,
    INDEX by_time at_ms TYPE minmax, INDEX by_hold hold_id TYPE bloom_filter,
    INDEX by_request request_id TYPE bloom_filter)
ENGINE = ReplacingMergeTree(batch)
PARTITION BY toYYYYMM(toDateTime(intDiv(at_ms, 1000), 'UTC'))
ORDER BY (era, sequence, identity, batch)
SETTINGS non_replicated_deduplication_window = 1000;

-- What events of type state say; it stays when they are forgotten.
CREATE TABLE IF NOT EXISTS states (batch UInt64, era UInt32, sequence Int64, at_ms Int64, account_id String, was Int32,
    now Int32, spent_nano Int64, limit_nano Int64, cause String, why String)
ENGINE = ReplacingMergeTree(batch)
PARTITION BY toYYYYMM(toDateTime(intDiv(at_ms, 1000), 'UTC'))
ORDER BY (at_ms, era, sequence, batch)
SETTINGS non_replicated_deduplication_window = 1000;

-- ordinal: the place in its batch.
CREATE TABLE IF NOT EXISTS calls (batch UInt64, ordinal UInt32, identity String, at_ms Int64,
    kind LowCardinality(String), outcome LowCardinality(String), request_id Nullable(String), hold_id String,
    surface LowCardinality(Nullable(String)), operation LowCardinality(Nullable(String)), stream Bool,
    key_id LowCardinality(Nullable(String)), scopes Array(String), agent LowCardinality(Nullable(String)),
    team LowCardinality(Nullable(String)), provider LowCardinality(Nullable(String)),
    model_requested LowCardinality(Nullable(String)), model_served LowCardinality(Nullable(String)), downgraded Bool,
    state LowCardinality(Nullable(String)), basis LowCardinality(Nullable(String)), why Nullable(String),
    posted_nano Int64, cost_nano Int64, held_nano Int64, saved_nano Int64, input_tokens Int64,
    cached_input_tokens Int64, cache_write_tokens Int64, output_tokens Int64, reasoning_tokens Int64,
    started_ms Nullable(Int64), latency_ms Nullable(Int64), upstream_ms Nullable(Int64),
    refusal LowCardinality(Nullable(String)), account_id LowCardinality(Nullable(String)),
    path LowCardinality(String), balances Nullable(String),
    INDEX by_hold hold_id TYPE bloom_filter, INDEX by_request request_id TYPE bloom_filter)
ENGINE = ReplacingMergeTree(batch)
PARTITION BY toYYYYMM(toDateTime(intDiv(at_ms, 1000), 'UTC'))
ORDER BY (at_ms, identity, batch)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS charges (batch UInt64, path LowCardinality(String), {charges})
ENGINE = ReplacingMergeTree(batch)
PARTITION BY toYYYYMM(`ChargePeriodStart`)
ORDER BY (`ChargePeriodStart`, `x_SourceRecordId`, batch)
SETTINGS non_replicated_deduplication_window = 1000;

-- Sums by quarter of an hour, which is what every time zone's day is made of, those of spend and calls also by longer
-- spans in UTC: span_ms is the length of a slot. Each batch adds rows of its own, and `compact` adds one for all
-- that there are of a slot, which then counts instead.
CREATE TABLE IF NOT EXISTS spend_slots (batch UInt64, merged Bool, span_ms Int64, slot_ms Int64,
    path LowCardinality(String),
    provider LowCardinality(Nullable(String)), service LowCardinality(Nullable(String)),
    category LowCardinality(Nullable(String)), meter LowCardinality(Nullable(String)),
    model LowCardinality(Nullable(String)), model_requested LowCardinality(Nullable(String)),
    basis LowCardinality(Nullable(String)), source LowCardinality(Nullable(String)),
    cost Decimal(38, 12), list_cost Decimal(38, 12), quantity Decimal(38, 12))
ENGINE = ReplacingMergeTree(batch)
PARTITION BY toYYYYMM(toDateTime(intDiv(slot_ms, 1000), 'UTC'))
ORDER BY (span_ms, slot_ms, path, provider, service, category, meter, model, model_requested, basis, source, batch)
SETTINGS non_replicated_deduplication_window = 1000, allow_nullable_key = 1;

CREATE TABLE IF NOT EXISTS call_slots (batch UInt64, merged Bool, span_ms Int64, slot_ms Int64,
    path LowCardinality(String),
    provider LowCardinality(Nullable(String)), model LowCardinality(Nullable(String)),
    model_requested LowCardinality(Nullable(String)), state LowCardinality(Nullable(String)),
    outcome LowCardinality(String), kind LowCardinality(String), refusal LowCardinality(Nullable(String)),
    downgraded Bool, calls Int64, refused Int64, failed Int64, cost_nano Int64, saved_nano Int64, avoided_nano Int64,
    unconfirmed_nano Int64, input_tokens Int64, output_tokens Int64, latency_ms Int64, timed Int64)
ENGINE = ReplacingMergeTree(batch)
PARTITION BY toYYYYMM(toDateTime(intDiv(slot_ms, 1000), 'UTC'))
ORDER BY (span_ms, slot_ms, path, provider, model, model_requested, state, outcome, kind, refusal, downgraded, batch)
SETTINGS non_replicated_deduplication_window = 1000, allow_nullable_key = 1;

CREATE TABLE IF NOT EXISTS account_slots (batch UInt64, merged Bool, slot_ms Int64, account_id String,
    posted_nano Int64)
ENGINE = ReplacingMergeTree(batch)
PARTITION BY toYYYYMM(toDateTime(intDiv(slot_ms, 1000), 'UTC'))
ORDER BY (slot_ms, account_id, batch)
SETTINGS non_replicated_deduplication_window = 1000
