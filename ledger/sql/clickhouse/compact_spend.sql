INSERT INTO spend_slots
SELECT {batch}, true, span_ms, slot_ms, path, provider, service, category, meter, model, model_requested, basis, source,
    sum(cost), sum(list_cost), sum(quantity)
FROM spend_slots
WHERE {live_slots} AND has({days}, intDiv(slot_ms, {day_ms}) * {day_ms})
GROUP BY ALL
