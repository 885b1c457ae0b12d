INSERT INTO account_slots
SELECT {batch}, true, slot_ms, account_id, sum(posted_nano)
FROM account_slots
WHERE NOT merged AND batch > {merged_to} AND {live}
GROUP BY ALL
