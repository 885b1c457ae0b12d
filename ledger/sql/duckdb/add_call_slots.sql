-- A row that only corrects (a true-up, a late end of an expired hold) is no other call.
INSERT INTO call_slots
SELECT at_ms // 900000 * 900000, path, provider, model_served, model_requested, state, outcome, kind, refusal,
    downgraded,
    count(*) FILTER (kind IN ('settle', 'void', 'post') AND NOT corrects OR kind = 'expire'),
    count(*) FILTER (kind = 'refusal'),
    count(*) FILTER (kind = 'void' AND NOT corrects),
    sum(posted_nano), coalesce(sum(saved_nano) FILTER (kind <> 'refusal'), 0),
    coalesce(sum(saved_nano) FILTER (kind = 'refusal'), 0),
    sum(CASE WHEN kind = 'expire' THEN posted_nano WHEN corrects THEN posted_nano - cost_nano ELSE 0 END),
    sum(input_tokens + cached_input_tokens + cache_write_tokens), sum(output_tokens + reasoning_tokens),
    coalesce(sum(latency_ms), 0), count(latency_ms)
FROM (SELECT *, kind IN ('settle', 'void') AND posted_nano <> cost_nano AS corrects FROM {source})
GROUP BY ALL
