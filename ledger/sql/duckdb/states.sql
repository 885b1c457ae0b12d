SELECT at_ms, fields ->> '$.account' AS account_id, (fields ->> '$.from')::INTEGER, (fields ->> '$.to')::INTEGER,
    (fields ->> '$.spent_nano')::BIGINT, (fields ->> '$.limit_nano')::BIGINT, fields ->> '$.cause', fields ->> '$.why'
FROM events
WHERE type = 'state' AND at_ms >= $start AND at_ms < $end
    AND ($all OR list_contains($ids::VARCHAR[], fields ->> '$.account'))
ORDER BY era DESC, sequence DESC
LIMIT $count
