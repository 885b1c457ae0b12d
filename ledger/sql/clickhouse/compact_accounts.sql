INSERT INTO account_slots
SELECT {batch}, true, slot_ms, account_id, sum(posted_nano)
FROM account_slots
WHERE {live_slots} AND has({days}, intDiv(slot_ms, {day_ms}) * {day_ms})
GROUP BY ALL
