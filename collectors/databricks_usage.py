"""Databricks' own record of model serving calls: `system.serving.endpoint_usage`, read by SQL.

The Statement Execution API runs a statement on a SQL warehouse: the first answer may be PENDING or RUNNING, then it is
asked again; a large result comes in chunks, and one of more than 25 MiB not at all, so rows are asked for in pages.
Usage appears 5 to 30 minutes after the call.
Source: https://docs.databricks.com/api/workspace/statementexecution and
https://docs.databricks.com/aws/en/admin/system-tables/serving

Failure policy: what can't be read raises `UsageUnavailable`, with Databricks' own words; half a result is none.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import aiohttp

from collectors.errors import UsageUnavailable
from ledger.ports import Interval
from ledger.reconcile import ProviderCall

_STATEMENT = """
SELECT u.client_request_id, u.request_time, e.endpoint_name, u.status_code, u.input_token_count, u.output_token_count
FROM system.serving.endpoint_usage AS u
JOIN system.serving.served_entities AS e ON e.served_entity_id = u.served_entity_id
WHERE u.request_time >= :start AND u.request_time < :end AND u.client_request_id IS NOT NULL
    AND (u.request_time > :start OR u.client_request_id > :after)
ORDER BY u.request_time, u.client_request_id
""".strip()
_PATH = "/api/2.0/sql/statements"
_WAIT = "10s"
#: Of a page: some 10 MB.
_ROWS = 50_000
_ASK_AGAIN_S = 1.0
_DONE = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "CLOSED"})


@dataclass(slots=True)
class DatabricksUsage:
    """Reads one workspace's usage table.

    host: with scheme, without trailing slash. token: a personal access token or an OAuth token.
    warehouse_id: of the SQL warehouse that runs the statements. timeout_s: for each of them. rows: of a page at most.
    """

    host: str
    token: str
    warehouse_id: str
    timeout_s: float = 600.0
    ask_again_s: float = _ASK_AGAIN_S
    rows: int = _ROWS
    _session: aiohttp.ClientSession | None = None

    name = "databricks"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self.token}"}, timeout=aiohttp.ClientTimeout(total=60)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def calls(self, interval: Interval) -> AsyncIterator[ProviderCall]:
        """The calls that were asked for in an interval, oldest first. One may come twice, where two pages meet.

        Raises:
            UsageUnavailable: Databricks refuses, fails, or takes too long.
        """
        start, after, more = _text(interval.start_ms), "", True
        while more:
            rows, more = await self._page(start, after, _text(interval.end_ms))
            for row in rows:
                yield _call(row)
            if more:
                after, start = rows[-1][0] or "", rows[-1][1] or ""

    async def _page(self, start: str, after: str, end: str) -> tuple[list[list[str | None]], bool]:
        """Rows behind a time and an id, and whether more follow them."""
        times = {"start": start, "end": end}
        parameters = [{"name": name, "value": value, "type": "TIMESTAMP"} for name, value in times.items()]
        parameters.append({"name": "after", "value": after, "type": "STRING"})
        body: dict[str, Any] = {"warehouse_id": self.warehouse_id, "statement": _STATEMENT, "parameters": parameters}
        body |= {"wait_timeout": _WAIT, "disposition": "INLINE", "format": "JSON_ARRAY", "row_limit": self.rows}
        rows: list[list[str | None]] = []
        try:
            async with asyncio.timeout(self.timeout_s):
                state = await self._ended(await self._ask("POST", _PATH, body))
                result: dict[str, Any] | None = state.get("result") or {}
                while result is not None:
                    rows += result.get("data_array") or ()
                    link = result.get("next_chunk_internal_link")
                    result = await self._ask("GET", link) if link else None
        except TimeoutError:
            raise UsageUnavailable(f"Databricks did not finish the statement in {self.timeout_s:.0f} s") from None
        return rows, bool(rows and state.get("manifest", {}).get("truncated"))

    async def _ended(self, state: dict[str, Any]) -> dict[str, Any]:
        while state["status"]["state"] not in _DONE:
            await asyncio.sleep(self.ask_again_s)
            state = await self._ask("GET", f"{_PATH}/{state['statement_id']}")
        if state["status"]["state"] != "SUCCEEDED":
            error = state["status"].get("error", {})
            raise UsageUnavailable(
                f"the statement {state['status']['state'].lower()}: {error.get('message', 'no reason was given')}"
            )
        return state

    async def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        if self._session is None:
            raise UsageUnavailable("the connection is not open")
        try:
            async with self._session.request(method, self.host + path, json=body) as answer:
                data: dict[str, Any] = await answer.json()
        except (aiohttp.ClientError, ValueError) as error:
            raise UsageUnavailable(f"Databricks can't be asked: {error}") from error
        if answer.status != 200:
            raise UsageUnavailable(f"Databricks answered {answer.status}: {data.get('message', '')}")
        return data


def _call(row: list[str | None]) -> ProviderCall:
    """Values come as text, whatever their type."""
    client_request_id, request_time, endpoint, status, input_tokens, output_tokens = row
    at = datetime.fromisoformat((request_time or "").replace("Z", "+00:00"))
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return ProviderCall(
        attempt_id=client_request_id or "",
        at_ms=round(at.timestamp() * 1000),
        model=endpoint or "",
        accepted=status == "200",
        input_tokens=int(input_tokens or 0),
        output_tokens=int(output_tokens or 0),
        cost_nano=None,
    )


def _text(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
