-- Sums of whole slots, and of the records themselves for the parts of a slot at both ends of the interval.
WITH spent AS (
    SELECT slot_ms, path, provider, service, category, meter, model, model_requested, basis, source, cost, list_cost,
        quantity, NULL AS tags
    FROM spend_slots
    WHERE slot_ms >= $first_ms AND slot_ms < $last_ms
    UNION ALL
    SELECT start_ms, path, "ServiceProviderName", "ServiceName", "ServiceCategory", "SkuMeter", "x_ModelServed",
        "x_ModelRequested", "x_CostBasis", "x_CostSource", cost + rounding, cost, coalesce(quantity, 0), "Tags"
    FROM charge_rows AS record
    JOIN charge_kinds AS kind ON kind.id = record.kind
    JOIN charge_chains AS chain ON chain.id = record.chain
    WHERE (start_ms >= $start_ms AND start_ms < $first_ms) OR (start_ms >= $last_ms AND start_ms < $end_ms)
)
SELECT {groups} {bucket} AS bucket_ms, sum(cost), sum(list_cost), sum(quantity)
FROM spent {joins}
WHERE {where}
GROUP BY ALL
HAVING count(*) > 0
