-- What of an attempt's events and refusals is in the ledger already. Era, sequence and time say where to look.
SELECT identity
FROM events
WHERE {live} AND at_ms >= {events_from_ms} AND identity IN (
    SELECT identity FROM events WHERE era = {era} AND sequence BETWEEN {first} AND {last} AND batch = {batch})
UNION ALL
SELECT identity
FROM calls
WHERE {live} AND at_ms BETWEEN {refused_from_ms} AND {refused_to_ms} AND kind = 'refusal' AND identity IN (
    SELECT identity FROM calls
    WHERE at_ms BETWEEN {refused_from_ms} AND {refused_to_ms} AND kind = 'refusal' AND batch = {batch})
