-- What of an attempt's events and refusals is in the ledger already.
SELECT identity
FROM events
WHERE {live} AND at_ms >= {events_from_ms} AND identity IN (SELECT identity FROM events WHERE batch = {batch})
UNION ALL
SELECT identity
FROM calls
WHERE {live} AND at_ms >= {refusals_from_ms} AND kind = 'refusal'
    AND identity IN (SELECT identity FROM calls WHERE batch = {batch} AND kind = 'refusal')
