-- A page of cost records, in the order of {at}: first which ones, then the whole of these. Sorting whole records would
-- need memory for all of them.
WITH record AS (
    SELECT record.*, record.identity || ':' || record.number AS record_id
    FROM charge_rows AS record
    {joins}
    WHERE record.{at} >= $start_ms AND record.{at} < $until_ms AND (record.{at} > $start_ms OR record_id > $after)
        AND {where}
    ORDER BY record.{at}, record_id
    LIMIT $count
)
SELECT {columns}, record.{at}, record_id
FROM record
JOIN charge_kinds AS kind ON kind.id = record.kind
JOIN charge_chains AS chain ON chain.id = record.chain
ORDER BY record.{at}, record_id
