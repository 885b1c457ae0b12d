-- Sums of the coarsest spans that fit, and at the ends of the interval the records themselves (ledger/spans.py).
WITH units AS (
    SELECT span_ms, bucket_ms, unnest(
        CASE WHEN span_ms = 0 THEN range(start_ms // 900000 * 900000, end_ms, 900000)
            ELSE range(start_ms, end_ms, span_ms) END) AS slot_ms
    FROM (SELECT unnest($spans::BIGINT[]) AS span_ms, unnest($starts::BIGINT[]) AS start_ms,
        unnest($ends::BIGINT[]) AS end_ms, unnest($buckets::BIGINT[]) AS bucket_ms)
), spent AS (
    SELECT bucket_ms, {columns} cost, list_cost, quantity
    FROM (SELECT *, NULL::VARCHAR AS tags FROM ({sums})) JOIN units USING (span_ms, slot_ms)
    UNION ALL
    SELECT bucket_ms, {columns} cost, list_cost, quantity
    FROM (
        SELECT 0::BIGINT AS span_ms, start_ms // 900000 * 900000 AS slot_ms, path, "ServiceProviderName" AS provider,
            "ServiceName" AS service, "ServiceCategory" AS category, "SkuMeter" AS meter, "x_ModelServed" AS model,
            "x_ModelRequested" AS model_requested, "x_CostBasis" AS basis, "x_CostSource" AS source,
            cost + rounding AS cost, cost AS list_cost, coalesce(quantity, 0) AS quantity, "Tags" AS tags
        FROM ({records}) AS record
        JOIN charge_kinds AS kind ON kind.id = record.kind
        JOIN charge_chains AS chain ON chain.id = record.chain
    ) JOIN units USING (span_ms, slot_ms)
), summed AS (
    SELECT bucket_ms, {keys} sum(cost) AS cost, sum(list_cost) AS list_cost, sum(quantity) AS quantity
    FROM spent GROUP BY ALL
)
SELECT {groups} {bucket} AS bucket_ms, sum(cost), sum(list_cost), sum(quantity)
FROM summed {joins}
WHERE {where}
GROUP BY ALL
HAVING count(*) > 0
