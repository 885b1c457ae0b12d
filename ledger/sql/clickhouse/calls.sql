-- Sums of the coarsest spans that fit, and at the ends of the interval the calls themselves (ledger/spans.py).
WITH units AS (
    SELECT part.1 AS span_ms, part.4 AS bucket_ms,
        arrayJoin(if(span_ms = 0, range(intDiv(part.2, 900000) * 900000, part.3, 900000),
            range(part.2, part.3, greatest(span_ms, 1)))) AS slot_ms
    FROM (SELECT arrayJoin({{units:Array(Tuple(Int64, Int64, Int64, Int64))}}) AS part)
), called AS (
    SELECT span_ms, slot_ms, path, provider, model, model_requested, state, outcome, kind, refusal, downgraded, calls,
        refused, failed, cost_nano, saved_nano, avoided_nano, unconfirmed_nano, input_tokens, output_tokens, latency_ms,
        timed, [''] AS scopes
    FROM call_slots
    WHERE {sums} AND {live_slots}
    UNION ALL
    SELECT toInt64(0), intDiv(at_ms, 900000) * 900000, path, provider, model_served, model_requested, state, outcome,
        kind, refusal, downgraded,
        toInt64(kind IN ('settle', 'void', 'post') AND NOT corrects OR kind = 'expire'), toInt64(kind = 'refusal'),
        toInt64(kind = 'void' AND NOT corrects), posted_nano, if(kind = 'refusal', 0, saved_nano),
        if(kind = 'refusal', saved_nano, 0),
        multiIf(kind = 'expire', posted_nano, corrects, posted_nano - cost_nano, 0),
        input_tokens + cached_input_tokens + cache_write_tokens, output_tokens + reasoning_tokens,
        coalesce(latency_ms, 0), toInt64(latency_ms IS NOT NULL), scopes
    FROM (
        SELECT *, kind IN ('settle', 'void') AND posted_nano <> cost_nano AS corrects
        FROM calls
        WHERE {records} AND {live}
    )
), summed AS (
    SELECT bucket_ms, {keys} sum(calls) AS s1, sum(refused) AS s2, sumIf(calls, downgraded) AS s3, sum(failed) AS s4,
        sum(cost_nano) AS s5, sum(saved_nano) AS s6, sum(avoided_nano) AS s7, sum(unconfirmed_nano) AS s8,
        sum(input_tokens) AS s9, sum(output_tokens) AS s10, sum(latency_ms) AS s11, sum(timed) AS s12
    FROM called JOIN units USING (span_ms, slot_ms)
    GROUP BY ALL
)
SELECT {groups} {bucket} AS bucket_ms, sum(s1), sum(s2), sum(s3), sum(s4), sum(s5), sum(s6), sum(s7), sum(s8), sum(s9),
    sum(s10), sum(s11), sum(s12)
FROM summed
WHERE {where}
GROUP BY ALL
HAVING count() > 0
