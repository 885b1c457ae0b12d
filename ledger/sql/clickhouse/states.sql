SELECT at_ms, account_id, was, now, spent_nano, limit_nano, cause, why
FROM states
WHERE at_ms >= {{start_ms:Int64}} AND at_ms < {{end_ms:Int64}}
    AND ({{all:Bool}} OR has({{ids:Array(String)}}, account_id)) AND {live}
ORDER BY era DESC, sequence DESC
LIMIT {{count:UInt32}}
