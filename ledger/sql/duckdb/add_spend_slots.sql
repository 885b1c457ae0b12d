INSERT INTO spend_slots
SELECT start_ms // 900000 * 900000, path, "ServiceProviderName", "ServiceName", "ServiceCategory", "SkuMeter",
    "x_ModelServed", "x_ModelRequested", "x_CostBasis", "x_CostSource",
    sum(cost + rounding), sum(cost), coalesce(sum(quantity), 0)
FROM {source} AS record
JOIN charge_kinds AS kind ON kind.id = record.kind
JOIN charge_chains AS chain ON chain.id = record.chain
GROUP BY ALL
