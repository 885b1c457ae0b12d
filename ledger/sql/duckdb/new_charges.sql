(
    -- Amounts come as whole pico-dollars.
    SELECT * REPLACE (
        cost * 0.000000000001 AS cost, rounding * 0.000000000001 AS rounding, quantity::DECIMAL(38, 12) AS quantity,
        (unit_price * 0.000000000001)::DECIMAL(38, 18) AS unit_price
    )
    FROM {source}
)
