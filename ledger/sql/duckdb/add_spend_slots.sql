INSERT INTO spend_slots
SELECT epoch_ms("ChargePeriodStart") // 900000 * 900000, path, "ServiceProviderName", "ServiceName", "ServiceCategory",
    "SkuMeter", "x_ModelServed", "x_ModelRequested", "x_CostBasis", "x_CostSource",
    sum("EffectiveCost" + "x_RoundingCost"), sum("ListCost"), coalesce(sum("ConsumedQuantity"), 0)
FROM new_charges
GROUP BY ALL
