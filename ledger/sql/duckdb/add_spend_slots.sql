INSERT INTO spend_slots
WITH summed AS (
    SELECT start_ms // 900000 * 900000 AS slot_ms, kind, chain, sum(cost + rounding) AS cost, sum(cost) AS list_cost,
        coalesce(sum(quantity), 0) AS quantity
    FROM {source}
    GROUP BY ALL
)
SELECT span_ms, slot_ms // span_ms * span_ms, path, "ServiceProviderName", "ServiceName", "ServiceCategory",
    "SkuMeter", "x_ModelServed", "x_ModelRequested", "x_CostBasis", "x_CostSource", sum(cost), sum(list_cost),
    sum(quantity)
FROM summed
JOIN charge_kinds AS kind ON kind.id = summed.kind
JOIN charge_chains AS chain ON chain.id = summed.chain
CROSS JOIN (SELECT unnest({spans}::BIGINT[]) AS span_ms)
GROUP BY ALL
