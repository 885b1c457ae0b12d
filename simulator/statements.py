"""Databricks' SQL Statement Execution API, for the one table that a gateway's spend is reconciled with.

A statement is not parsed: one that names `system.serving.endpoint_usage` gets its rows, between the parameters `start`
and `end`; any other fails, as one over an unknown table does. As on a warehouse that has to wake up, the first answer
is PENDING; a result comes in chunks.
Source: https://docs.databricks.com/api/workspace/statementexecution
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from simulator.bill import Bill, CallRecord
from simulator.errors import CallError, invalid_parameter

PATH = "/api/2.0/sql/statements"
_TABLE = "system.serving.endpoint_usage"
_CHUNK_ROWS = 500
_MAX_STATEMENTS = 100


class Statements:
    """The statements of one simulator; results are kept until as many others came."""

    def __init__(self, bill: Bill) -> None:
        self._bill = bill
        self._rows: dict[str, list[list[str | None]] | None] = {}
        self._made = 0

    def execute(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Take a statement.

        Raises:
            CallError: 400, it lacks a statement or a warehouse.
        """
        for field in ("statement", "warehouse_id"):
            if not isinstance(body.get(field), str) or not body[field]:
                raise invalid_parameter(f"{field} must be specified.")
        self._made += 1
        statement_id = f"01ef{self._made:028x}"
        self._rows[statement_id] = self._result(body)
        while len(self._rows) > _MAX_STATEMENTS:
            del self._rows[next(iter(self._rows))]
        return {"statement_id": statement_id, "status": {"state": "PENDING"}}

    def state(self, statement_id: str) -> dict[str, Any]:
        """How a statement stands, with its first chunk.

        Raises:
            CallError: 404, there is none of this id.
        """
        rows = self._of(statement_id)
        if rows is None:
            error = {"error_code": "BAD_REQUEST", "message": "[TABLE_OR_VIEW_NOT_FOUND] The table cannot be found."}
            return {"statement_id": statement_id, "status": {"state": "FAILED", "error": error}}
        manifest = {"format": "JSON_ARRAY", "total_row_count": len(rows)}
        state = {"statement_id": statement_id, "status": {"state": "SUCCEEDED"}, "manifest": manifest}
        return state | {"result": self.chunk(statement_id, 0)}

    def chunk(self, statement_id: str, index: int) -> dict[str, Any]:
        """A part of a result.

        Raises:
            CallError: 404, there is no such statement or chunk.
        """
        rows = self._of(statement_id) or []
        start = index * _CHUNK_ROWS
        if index and start >= len(rows):
            raise CallError(404, "NOT_FOUND", f"Chunk {index} does not exist.")
        part: dict[str, Any] = {"chunk_index": index, "row_offset": start}
        part["data_array"] = rows[start : start + _CHUNK_ROWS]
        if start + _CHUNK_ROWS < len(rows):
            part["next_chunk_index"] = index + 1
            part["next_chunk_internal_link"] = f"{PATH}/{statement_id}/result/chunks/{index + 1}"
        return part

    def _of(self, statement_id: str) -> list[list[str | None]] | None:
        if statement_id not in self._rows:
            raise CallError(404, "NOT_FOUND", f"The statement {statement_id} was not found.")
        return self._rows[statement_id]

    def _result(self, body: Mapping[str, Any]) -> list[list[str | None]] | None:
        if _TABLE not in body["statement"]:
            return None
        given = {p["name"]: p["value"] for p in body.get("parameters", [])}
        start_ms, end_ms = _epoch_ms(given.get("start"), 0), _epoch_ms(given.get("end"), 2**53)
        return [_row(r) for r in self._bill.records() if r.client_request_id and start_ms <= r.at_ms < end_ms]


def _row(record: CallRecord) -> list[str | None]:
    at = datetime.fromtimestamp(record.at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    tokens = (str(record.prompt_tokens), str(record.completion_tokens))
    return [record.client_request_id, at, record.model, str(record.status or 499), *tokens]


def _epoch_ms(text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)
