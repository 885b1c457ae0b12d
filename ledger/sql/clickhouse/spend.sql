-- Sums of the coarsest spans that fit, and at the ends of the interval the records themselves (ledger/spans.py). They are
-- added up by chain of scopes first: to find a key in each of their rows would take longer than all the rest.
WITH units AS (
    SELECT part.1 AS span_ms, part.4 AS bucket_ms,
        arrayJoin(if(span_ms = 0, range(intDiv(part.2, 900000) * 900000, part.3, 900000),
            range(part.2, part.3, greatest(span_ms, 1)))) AS slot_ms
    FROM (SELECT arrayJoin({{units:Array(Tuple(Int64, Int64, Int64, Int64))}}) AS part)
), spent AS (
    SELECT span_ms, slot_ms, path, provider, service, category, meter, model, model_requested, basis, source, cost,
        list_cost, quantity, '' AS tags
    FROM spend_slots
    WHERE {sums} AND {live_slots}
    UNION ALL
    SELECT toInt64(0), intDiv(toUnixTimestamp64Milli(`ChargePeriodStart`), 900000) * 900000, path,
        `ServiceProviderName`, `ServiceName`, `ServiceCategory`, `SkuMeter`, `x_ModelServed`, `x_ModelRequested`,
        `x_CostBasis`, `x_CostSource`, `EffectiveCost` + `x_RoundingCost`, `ListCost`,
        coalesce(`ConsumedQuantity`, 0), coalesce(`Tags`, '')
    FROM charges
    WHERE {records} AND {live}
), summed AS (
    SELECT bucket_ms, {keys} sum(cost) AS costs, sum(list_cost) AS list_costs, sum(quantity) AS quantities
    FROM spent JOIN units USING (span_ms, slot_ms)
    GROUP BY ALL
)
SELECT {groups} {bucket} AS bucket_ms, sum(costs), sum(list_costs), sum(quantities)
FROM summed
WHERE {where}
GROUP BY ALL
HAVING count() > 0
