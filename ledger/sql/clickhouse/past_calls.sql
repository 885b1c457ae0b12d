-- A call ends after it came, but for clocks that are a little apart: so a page passes over what ended long before it.
SELECT coalesce(started_ms, at_ms) AS start_ms, identity, at_ms, kind, hold_id, {key} AS scope_key, model_requested,
    model_served, downgraded, posted_nano, cost_nano, held_nano, if(kind = 'refusal', saved_nano, 0), input_tokens,
    cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, refusal, account_id
FROM calls
WHERE at_ms >= {{start_ms:Int64}} AND at_ms < {{end_ms:Int64}} AND at_ms >= {{after_ms:Int64}} - 10000 AND {where}
    AND (coalesce(started_ms, at_ms), identity) > ({{after_ms:Int64}}, {{after:String}}) AND {live}
ORDER BY start_ms, identity
LIMIT {{count:UInt32}}
