SELECT account_id, slot_ms, sum(posted_nano)
FROM account_slots
WHERE slot_ms >= {{start_ms:Int64}} AND slot_ms < {{end_ms:Int64}}
    AND ({{all:Bool}} OR has({{ids:Array(String)}}, account_id)) AND {live_slots}
GROUP BY account_id, slot_ms
ORDER BY slot_ms, account_id
