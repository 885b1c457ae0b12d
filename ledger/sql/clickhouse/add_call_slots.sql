-- A row that only corrects (a true-up, a late end of an expired hold) is no other call.
INSERT INTO call_slots
SELECT {batch}, false, arrayJoin({spans}) AS span_ms, intDiv(at_ms, span_ms) * span_ms, path, provider,
    model_served, model_requested, state, outcome, kind, refusal, downgraded,
    countIf(kind IN ('settle', 'void', 'post') AND NOT corrects OR kind = 'expire'),
    countIf(kind = 'refusal'),
    countIf(kind = 'void' AND NOT corrects),
    sum(posted_nano), sumIf(saved_nano, kind <> 'refusal'), sumIf(saved_nano, kind = 'refusal'),
    sum(multiIf(kind = 'expire', posted_nano, corrects, posted_nano - cost_nano, 0)),
    sum(input_tokens + cached_input_tokens + cache_write_tokens), sum(output_tokens + reasoning_tokens),
    sum(coalesce(latency_ms, 0)), count(latency_ms)
FROM (
    SELECT *, kind IN ('settle', 'void') AND posted_nano <> cost_nano AS corrects
    FROM calls
    WHERE batch = {batch} AND at_ms BETWEEN {from_ms} AND {to_ms}
)
GROUP BY ALL
