WITH called AS (
    SELECT *, NULL::VARCHAR[] AS scopes FROM call_slots WHERE slot_ms >= $first_ms AND slot_ms < $last_ms
    UNION ALL
    SELECT at_ms AS slot_ms, path, provider, model_served, model_requested, state, outcome, kind, refusal, downgraded,
        (kind IN ('settle', 'void', 'post') AND NOT corrects OR kind = 'expire')::BIGINT, (kind = 'refusal')::BIGINT,
        (kind = 'void' AND NOT corrects)::BIGINT, posted_nano, if(kind = 'refusal', 0, saved_nano),
        if(kind = 'refusal', saved_nano, 0),
        CASE WHEN kind = 'expire' THEN posted_nano WHEN corrects THEN posted_nano - cost_nano ELSE 0 END,
        input_tokens + cached_input_tokens + cache_write_tokens, output_tokens + reasoning_tokens,
        coalesce(latency_ms, 0), (latency_ms IS NOT NULL)::BIGINT, scopes
    FROM (SELECT *, kind IN ('settle', 'void') AND posted_nano <> cost_nano AS corrects FROM calls
        WHERE (at_ms >= $start_ms AND at_ms < $first_ms) OR (at_ms >= $last_ms AND at_ms < $end_ms))
)
SELECT {groups} {bucket} AS bucket_ms, sum(calls)::BIGINT, sum(refused)::BIGINT,
    coalesce(sum(calls) FILTER (downgraded), 0)::BIGINT, sum(failed)::BIGINT, sum(cost_nano)::BIGINT,
    sum(saved_nano)::BIGINT, sum(avoided_nano)::BIGINT, sum(unconfirmed_nano)::BIGINT, sum(input_tokens)::BIGINT,
    sum(output_tokens)::BIGINT, sum(latency_ms)::BIGINT, sum(timed)::BIGINT
FROM called {joins}
WHERE {where}
GROUP BY ALL
HAVING count(*) > 0
