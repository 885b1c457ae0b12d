"""Adjustments as records of the ledger's own, for calls that the live state no longer knows."""

from collections.abc import Iterable
from dataclasses import replace

import orjson

from ledger.charges import charges_of
from ledger.model import Batch, EventRow, Position
from ledger.ports import Adjustment

KIND = "reconcile"


def batch_of_adjustments(adjustments: Iterable[Adjustment], at: Position, recorded_ms: int) -> Batch:
    """Their rows, dated when the call was, so that they correct its period. The same adjustment of the same call, from
    the same cost to the same, is the same record: it is added once.

    at: where the ledger is, and stays.
    """
    rows, known = Batch(at, stays=True), set[str]()
    for adjustment in adjustments:
        call, after_nano = adjustment.call, adjustment.cost_nano
        identity = f"{call.hold_id}:{KIND}:{after_nano - adjustment.delta_nano}:{after_nano}"
        if identity in known:
            continue
        known.add(identity)
        detail = {"source": adjustment.source, "why": adjustment.why}
        fields = {"type": KIND, "hold": call.hold_id, "delta_nano": str(adjustment.delta_nano)}
        fields |= {"cost_nano": str(adjustment.cost_nano), "detail": orjson.dumps(detail).decode()}
        rows.events.append(
            EventRow(
                identity,
                "",
                at.epoch,
                0,
                call.at_ms,
                KIND,
                call.hold_id,
                call.request_id,
                orjson.dumps(fields).decode(),
            )
        )
        corrected = replace(
            call,
            identity=identity,
            kind=KIND,
            outcome=KIND,
            basis="reconciled",
            why=adjustment.why,
            posted_nano=adjustment.delta_nano,
            cost_nano=adjustment.cost_nano,
            saved_nano=0,
            input_tokens=0,
            cached_input_tokens=0,
            cache_write_tokens=0,
            output_tokens=0,
            reasoning_tokens=0,
            latency_ms=None,
            upstream_ms=None,
        )
        rows.calls.append(corrected)
        rows.charges.append(charges_of(corrected, detail, recorded_ms))
    return rows
