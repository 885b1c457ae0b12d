-- Sums of the coarsest spans that fit, and at the ends of the interval the calls themselves (ledger/spans.py).
WITH units AS (
    SELECT span_ms, bucket_ms, unnest(
        CASE WHEN span_ms = 0 THEN range(start_ms // 900000 * 900000, end_ms, 900000)
            ELSE range(start_ms, end_ms, span_ms) END) AS slot_ms
    FROM (SELECT unnest($spans::BIGINT[]) AS span_ms, unnest($starts::BIGINT[]) AS start_ms,
        unnest($ends::BIGINT[]) AS end_ms, unnest($buckets::BIGINT[]) AS bucket_ms)
), called AS (
    SELECT bucket_ms, {columns} calls, refused, if(downgraded, calls, 0) AS lowered, failed, cost_nano, saved_nano,
        avoided_nano, unconfirmed_nano, input_tokens, output_tokens, latency_ms, timed
    FROM (SELECT *, NULL::VARCHAR[] AS scopes FROM ({sums})) JOIN units USING (span_ms, slot_ms)
    UNION ALL
    SELECT bucket_ms, {columns} calls, refused, if(downgraded, calls, 0) AS lowered, failed, cost_nano, saved_nano,
        avoided_nano, unconfirmed_nano, input_tokens, output_tokens, latency_ms, timed
    FROM (
        SELECT 0::BIGINT AS span_ms, at_ms // 900000 * 900000 AS slot_ms, path, provider, model_served AS model,
            model_requested, state, outcome, kind, refusal, downgraded, scopes,
            (kind IN ('settle', 'void', 'post') AND NOT corrects OR kind = 'expire')::BIGINT AS calls,
            (kind = 'refusal')::BIGINT AS refused, (kind = 'void' AND NOT corrects)::BIGINT AS failed,
            posted_nano AS cost_nano, if(kind = 'refusal', 0, saved_nano) AS saved_nano,
            if(kind = 'refusal', saved_nano, 0) AS avoided_nano,
            CASE WHEN kind = 'expire' THEN posted_nano WHEN corrects THEN posted_nano - cost_nano ELSE 0 END
                AS unconfirmed_nano,
            input_tokens + cached_input_tokens + cache_write_tokens AS input_tokens,
            output_tokens + reasoning_tokens AS output_tokens, coalesce(latency_ms, 0) AS latency_ms,
            (latency_ms IS NOT NULL)::BIGINT AS timed
        FROM (SELECT *, kind IN ('settle', 'void') AND posted_nano <> cost_nano AS corrects FROM ({records}))
    ) JOIN units USING (span_ms, slot_ms)
), summed AS (
    SELECT bucket_ms, {keys} sum(calls)::BIGINT AS calls, sum(refused)::BIGINT AS refused,
        sum(lowered)::BIGINT AS lowered,
        sum(failed)::BIGINT AS failed, sum(cost_nano)::BIGINT AS cost_nano, sum(saved_nano)::BIGINT AS saved_nano,
        sum(avoided_nano)::BIGINT AS avoided_nano, sum(unconfirmed_nano)::BIGINT AS unconfirmed_nano,
        sum(input_tokens)::BIGINT AS input_tokens, sum(output_tokens)::BIGINT AS output_tokens, sum(latency_ms)::BIGINT
        AS latency_ms, sum(timed)::BIGINT AS timed
    FROM called GROUP BY ALL
)
SELECT {groups} {bucket} AS bucket_ms, sum(calls)::BIGINT, sum(refused)::BIGINT, sum(lowered)::BIGINT,
    sum(failed)::BIGINT, sum(cost_nano)::BIGINT, sum(saved_nano)::BIGINT, sum(avoided_nano)::BIGINT,
    sum(unconfirmed_nano)::BIGINT, sum(input_tokens)::BIGINT, sum(output_tokens)::BIGINT, sum(latency_ms)::BIGINT,
    sum(timed)::BIGINT
FROM summed {joins}
WHERE {where}
GROUP BY ALL
HAVING count(*) > 0
