CREATE OR REPLACE TEMP TABLE merged AS
SELECT span_ms, slot_ms, path, provider, service, category, meter, model, model_requested, basis, source,
    sum(cost)::DECIMAL(38, 12) AS cost, sum(list_cost)::DECIMAL(38, 12) AS list_cost,
    sum(quantity)::DECIMAL(38, 12) AS quantity
FROM spend_slots WHERE slot_ms >= {from_ms} GROUP BY ALL ORDER BY span_ms, slot_ms;
DELETE FROM spend_slots WHERE slot_ms >= {from_ms};
INSERT INTO spend_slots SELECT * FROM merged;
DROP TABLE merged
