"""Databricks' SQL Statement Execution API, for the one table that a gateway's spend is reconciled with.

A statement is not parsed: one that names `system.serving.endpoint_usage` gets its rows, between the parameters `start`
and `end`, of those at `start` the ones whose id is above `after`; any other fails, as one over an unknown table does.
As on a warehouse that has to wake up, the first answer is PENDING; a result comes in chunks. One that is cut at
`row_limit` says so; one of more bytes than are given inline fails.
Source: https://docs.databricks.com/api/workspace/statementexecution
"""

from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime
from typing import Any

from core.values import value
from simulator.bill import Bill, CallRecord
from simulator.errors import CallError, invalid_parameter

PATH = "/api/2.0/sql/statements"
_TABLE = "system.serving.endpoint_usage"
_CHUNK_ROWS = 500
_MAX_STATEMENTS = 100
#: Of a result that is given inline.
_MAX_BYTES = 26_214_400
Row = list[str | None]


class Statements:
    """The statements of one simulator; results are kept until as many others came."""

    def __init__(self, bill: Bill) -> None:
        self._bill = bill
        self._results: dict[str, _Result] = {}
        self._made = 0

    def execute(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Take a statement.

        Raises:
            CallError: 400, it lacks a statement or a warehouse.
        """
        for name in ("statement", "warehouse_id"):
            if not isinstance(body.get(name), str) or not body[name]:
                raise invalid_parameter(f"{name} must be specified.")
        self._made += 1
        statement_id = f"01ef{self._made:028x}"
        self._results[statement_id] = self._result(body)
        while len(self._results) > _MAX_STATEMENTS:
            del self._results[next(iter(self._results))]
        return {"statement_id": statement_id, "status": {"state": "PENDING"}}

    def state(self, statement_id: str) -> dict[str, Any]:
        """How a statement stands, with its first chunk.

        Raises:
            CallError: 404, there is none of this id.
        """
        found = self._of(statement_id)
        if found.error:
            error = {"error_code": "BAD_REQUEST", "message": found.error}
            return {"statement_id": statement_id, "status": {"state": "FAILED", "error": error}}
        manifest = {"format": "JSON_ARRAY", "total_row_count": len(found.rows), "truncated": found.truncated}
        state = {"statement_id": statement_id, "status": {"state": "SUCCEEDED"}, "manifest": manifest}
        return state | {"result": self.chunk(statement_id, 0)}

    def chunk(self, statement_id: str, index: int) -> dict[str, Any]:
        """A part of a result.

        Raises:
            CallError: 404, there is no such statement or chunk.
        """
        rows = self._of(statement_id).rows
        start = index * _CHUNK_ROWS
        if index and start >= len(rows):
            raise CallError(404, "NOT_FOUND", f"Chunk {index} does not exist.")
        part: dict[str, Any] = {"chunk_index": index, "row_offset": start}
        part["data_array"] = rows[start : start + _CHUNK_ROWS]
        if start + _CHUNK_ROWS < len(rows):
            part["next_chunk_index"] = index + 1
            part["next_chunk_internal_link"] = f"{PATH}/{statement_id}/result/chunks/{index + 1}"
        return part

    def _of(self, statement_id: str) -> "_Result":
        if statement_id not in self._results:
            raise CallError(404, "NOT_FOUND", f"The statement {statement_id} was not found.")
        return self._results[statement_id]

    def _result(self, body: Mapping[str, Any]) -> "_Result":
        if _TABLE not in body["statement"]:
            return _Result(error="[TABLE_OR_VIEW_NOT_FOUND] The table cannot be found.")
        given = {p["name"]: p["value"] for p in body.get("parameters", [])}
        start_ms, end_ms = _epoch_ms(given.get("start"), 0), _epoch_ms(given.get("end"), 2**53)
        behind = (start_ms, given.get("after", ""))
        records = [r for r in self._bill.records() if r.client_request_id and r.at_ms < end_ms]
        places = sorted((r.at_ms, r.client_request_id or "", n) for n, r in enumerate(records))
        rows = [_row(records[n]) for at_ms, name, n in places if (at_ms, name) > behind]
        limit = body.get("row_limit") or len(rows)
        result = _Result(rows[:limit], truncated=len(rows) > limit)
        if sum(len(cell or "") for row in result.rows for cell in row) > _MAX_BYTES:
            return _Result(error=f"Inline byte limit exceeded: a result can have at most {_MAX_BYTES} bytes.")
        return result


@value
class _Result:
    """Rows, or why there are none. truncated: there are more than were asked for."""

    rows: list[Row] = field(default_factory=list)
    truncated: bool = False
    error: str = ""


def _row(record: CallRecord) -> Row:
    at = datetime.fromtimestamp(record.at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    tokens = (str(record.prompt_tokens), str(record.completion_tokens))
    return [record.client_request_id, at, record.model, str(record.status or 499), *tokens]


def _epoch_ms(text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)
