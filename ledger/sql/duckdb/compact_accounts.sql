CREATE OR REPLACE TEMP TABLE merged AS
SELECT slot_ms, account_id, sum(posted_nano)::BIGINT AS posted_nano
FROM account_slots WHERE slot_ms >= {from_ms} GROUP BY ALL ORDER BY slot_ms;
DELETE FROM account_slots WHERE slot_ms >= {from_ms};
INSERT INTO account_slots SELECT * FROM merged;
DROP TABLE merged
