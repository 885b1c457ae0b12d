INSERT INTO call_slots
SELECT {batch}, true, span_ms, slot_ms, path, provider, model, model_requested, state, outcome, kind, refusal,
    downgraded,
    sum(calls), sum(refused), sum(failed), sum(cost_nano), sum(saved_nano), sum(avoided_nano), sum(unconfirmed_nano),
    sum(input_tokens), sum(output_tokens), sum(latency_ms), sum(timed)
FROM call_slots
WHERE {live_slots} AND has({days}, intDiv(slot_ms, {day_ms}) * {day_ms})
GROUP BY ALL
