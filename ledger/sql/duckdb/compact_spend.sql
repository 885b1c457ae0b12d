CREATE OR REPLACE TABLE spend_slots AS
SELECT span_ms, slot_ms, path, provider, service, category, meter, model, model_requested, basis, source,
    sum(cost)::DECIMAL(38, 12) AS cost, sum(list_cost)::DECIMAL(38, 12) AS list_cost,
    sum(quantity)::DECIMAL(38, 12) AS quantity
FROM spend_slots GROUP BY ALL ORDER BY span_ms, slot_ms
