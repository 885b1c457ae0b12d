-- Sums of whole slots, and of the records themselves for the parts of a slot at both ends of the interval.
WITH spent AS (
    SELECT slot_ms, path, provider, service, category, meter, model, model_requested, basis, source, cost, list_cost,
        quantity, '' AS tags
    FROM spend_slots
    WHERE slot_ms >= {{first_ms:Int64}} AND slot_ms < {{last_ms:Int64}} AND {live_slots}
    UNION ALL
    SELECT toUnixTimestamp64Milli(`ChargePeriodStart`), path, `ServiceProviderName`, `ServiceName`, `ServiceCategory`,
        `SkuMeter`, `x_ModelServed`, `x_ModelRequested`, `x_CostBasis`, `x_CostSource`,
        `EffectiveCost` + `x_RoundingCost`, `ListCost`, coalesce(`ConsumedQuantity`, 0), coalesce(`Tags`, '')
    FROM charges
    WHERE (`ChargePeriodStart` >= fromUnixTimestamp64Milli({{start_ms:Int64}}, 'UTC')
            AND `ChargePeriodStart` < fromUnixTimestamp64Milli({{first_ms:Int64}}, 'UTC')
        OR `ChargePeriodStart` >= fromUnixTimestamp64Milli({{last_ms:Int64}}, 'UTC')
            AND `ChargePeriodStart` < fromUnixTimestamp64Milli({{end_ms:Int64}}, 'UTC')) AND {live}
)
SELECT {groups} {bucket} AS bucket_ms, sum(cost), sum(list_cost), sum(quantity)
FROM spent
WHERE {where}
GROUP BY ALL
HAVING count() > 0
