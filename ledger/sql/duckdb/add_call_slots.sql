-- A row that only corrects (a true-up, a late end of an expired hold) is no other call.
INSERT INTO call_slots
WITH summed AS (
    SELECT at_ms // 900000 * 900000 AS slot_ms, path, provider, model_served, model_requested, state, outcome, kind,
        refusal, downgraded,
        count(*) FILTER (kind IN ('settle', 'void', 'post') AND NOT corrects OR kind = 'expire') AS calls,
        count(*) FILTER (kind = 'refusal') AS refused,
        count(*) FILTER (kind = 'void' AND NOT corrects) AS failed,
        sum(posted_nano) AS cost_nano, coalesce(sum(saved_nano) FILTER (kind <> 'refusal'), 0) AS saved_nano,
        coalesce(sum(saved_nano) FILTER (kind = 'refusal'), 0) AS avoided_nano,
        sum(CASE WHEN kind = 'expire' THEN posted_nano WHEN corrects THEN posted_nano - cost_nano ELSE 0 END)
            AS unconfirmed_nano,
        sum(input_tokens + cached_input_tokens + cache_write_tokens) AS input_tokens,
        sum(output_tokens + reasoning_tokens) AS output_tokens, coalesce(sum(latency_ms), 0) AS latency_ms,
        count(latency_ms) AS timed
    FROM (SELECT *, kind IN ('settle', 'void') AND posted_nano <> cost_nano AS corrects FROM {source})
    GROUP BY ALL
)
SELECT span_ms, slot_ms // span_ms * span_ms, path, provider, model_served, model_requested, state, outcome, kind,
    refusal, downgraded, sum(calls), sum(refused), sum(failed), sum(cost_nano), sum(saved_nano), sum(avoided_nano),
    sum(unconfirmed_nano), sum(input_tokens), sum(output_tokens), sum(latency_ms), sum(timed)
FROM summed
CROSS JOIN (SELECT unnest({spans}::BIGINT[]) AS span_ms)
GROUP BY ALL
