WITH called AS (
    SELECT slot_ms, path, provider, model, model_requested, state, outcome, kind, refusal, downgraded, calls, refused,
        failed, cost_nano, saved_nano, avoided_nano, unconfirmed_nano, input_tokens, output_tokens, latency_ms, timed,
        [''] AS scopes
    FROM call_slots
    WHERE slot_ms >= {{first_ms:Int64}} AND slot_ms < {{last_ms:Int64}} AND {live_slots}
    UNION ALL
    SELECT at_ms, path, provider, model_served, model_requested, state, outcome, kind, refusal, downgraded,
        toInt64(kind IN ('settle', 'void', 'post') AND NOT corrects OR kind = 'expire'), toInt64(kind = 'refusal'),
        toInt64(kind = 'void' AND NOT corrects), posted_nano, if(kind = 'refusal', 0, saved_nano),
        if(kind = 'refusal', saved_nano, 0),
        multiIf(kind = 'expire', posted_nano, corrects, posted_nano - cost_nano, 0),
        input_tokens + cached_input_tokens + cache_write_tokens, output_tokens + reasoning_tokens,
        coalesce(latency_ms, 0), toInt64(latency_ms IS NOT NULL), scopes
    FROM (
        SELECT *, kind IN ('settle', 'void') AND posted_nano <> cost_nano AS corrects
        FROM calls
        WHERE (at_ms >= {{start_ms:Int64}} AND at_ms < {{first_ms:Int64}}
            OR at_ms >= {{last_ms:Int64}} AND at_ms < {{end_ms:Int64}}) AND {live}
    )
)
SELECT {groups} {bucket} AS bucket_ms, sum(calls), sum(refused), sumIf(calls, downgraded), sum(failed), sum(cost_nano),
    sum(saved_nano), sum(avoided_nano), sum(unconfirmed_nano), sum(input_tokens), sum(output_tokens), sum(latency_ms),
    sum(timed)
FROM called
WHERE {where}
GROUP BY ALL
HAVING count() > 0
