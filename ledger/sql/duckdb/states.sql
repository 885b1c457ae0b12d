SELECT at_ms, account_id, was, now, spent_nano, limit_nano, cause, why
FROM states
WHERE at_ms >= $start AND at_ms < $end AND ($all OR list_contains($ids::VARCHAR[], account_id))
ORDER BY era DESC, sequence DESC
LIMIT $count
