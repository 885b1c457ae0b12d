INSERT INTO spend_slots
SELECT {batch}, false, arrayJoin({spans}) AS span_ms,
    intDiv(toUnixTimestamp64Milli(`ChargePeriodStart`), span_ms) * span_ms, path,
    `ServiceProviderName`, `ServiceName`, `ServiceCategory`, `SkuMeter`, `x_ModelServed`, `x_ModelRequested`,
    `x_CostBasis`, `x_CostSource`,
    sum(`EffectiveCost` + `x_RoundingCost`), sum(`ListCost`), sum(coalesce(`ConsumedQuantity`, 0))
FROM charges
WHERE batch = {batch} AND `ChargePeriodStart` BETWEEN fromUnixTimestamp64Milli({from_ms}, 'UTC')
    AND fromUnixTimestamp64Milli({to_ms}, 'UTC')
GROUP BY ALL
