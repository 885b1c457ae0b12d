CREATE OR REPLACE TABLE account_slots AS
SELECT slot_ms, account_id, sum(posted_nano)::BIGINT AS posted_nano
FROM account_slots GROUP BY ALL ORDER BY slot_ms
