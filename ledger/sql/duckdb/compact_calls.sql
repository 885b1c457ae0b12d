CREATE OR REPLACE TEMP TABLE merged AS
SELECT span_ms, slot_ms, path, provider, model, model_requested, state, outcome, kind, refusal, downgraded,
    sum(calls)::BIGINT AS calls, sum(refused)::BIGINT AS refused, sum(failed)::BIGINT AS failed,
    sum(cost_nano)::BIGINT AS cost_nano, sum(saved_nano)::BIGINT AS saved_nano,
    sum(avoided_nano)::BIGINT AS avoided_nano, sum(unconfirmed_nano)::BIGINT AS unconfirmed_nano,
    sum(input_tokens)::BIGINT AS input_tokens, sum(output_tokens)::BIGINT AS output_tokens,
    sum(latency_ms)::BIGINT AS latency_ms, sum(timed)::BIGINT AS timed
FROM call_slots WHERE slot_ms >= {from_ms} GROUP BY ALL ORDER BY span_ms, slot_ms;
DELETE FROM call_slots WHERE slot_ms >= {from_ms};
INSERT INTO call_slots SELECT * FROM merged;
DROP TABLE merged
