"""`ledger.ports.LedgerReader` over the socket of the process that owns the ledger."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from ledger.errors import LedgerUnavailable
from ledger.model import CallRow, EventRow
from ledger.ports import (
    AccountPoint,
    Adjustment,
    CallsAsk,
    CallsRow,
    Filter,
    Interval,
    PastCall,
    PastCallsAsk,
    SpendAsk,
    SpendRow,
    StateChange,
)
from spendgate.ledger_wire import LIMIT_BYTES, socket_path, verbs

_TIMEOUT_S = 30.0
#: For what writes files.
_LONG_S = 6 * 3600.0


class LedgerClient:
    """Asks the owner of one data folder's ledger, on a connection for each question."""

    def __init__(self, data_dir: Path, namespace: str) -> None:
        self._data_dir = data_dir
        self._namespace = namespace

    async def spend(self, ask: SpendAsk) -> list[SpendRow]:
        """As `LedgerStore.spend`."""
        found: list[SpendRow] = await self._ask("spend", ask=ask)
        return found

    async def calls(self, ask: SpendAsk) -> list[CallsRow]:
        """As `LedgerStore.calls`."""
        found: list[CallsRow] = await self._ask("calls", ask=ask)
        return found

    async def call_list(self, ask: CallsAsk) -> list[CallRow]:
        """As `LedgerStore.call_list`."""
        found: list[CallRow] = await self._ask("call_list", ask=ask)
        return found

    async def past_calls(self, ask: PastCallsAsk) -> list[PastCall]:
        """As `LedgerStore.past_calls`."""
        found: list[PastCall] = await self._ask("past_calls", ask=ask)
        return found

    async def of_request(self, request_id: str) -> tuple[list[CallRow], list[EventRow]]:
        """As `LedgerStore.of_request`."""
        found: tuple[list[CallRow], list[EventRow]] = await self._ask("of_request", request_id=request_id)
        return found

    async def postings(self, account_ids: Sequence[str] | None, interval: Interval | None = None) -> list[AccountPoint]:
        """As `LedgerStore.postings`."""
        found: list[AccountPoint] = await self._ask("postings", account_ids=account_ids, interval=interval)
        return found

    async def state_changes(
        self, interval: Interval, account_ids: Sequence[str] | None, limit: int
    ) -> list[StateChange]:
        """As `LedgerStore.state_changes`."""
        found: list[StateChange] = await self._ask(
            "state_changes", interval=interval, account_ids=account_ids, limit=limit
        )
        return found

    async def export_to(self, path: str, kind: str, layout: str, interval: Interval, filters: Sequence[Filter]) -> int:
        """Have the owner write a file; how many records it has."""
        count: int = await self._ask(
            "export_to",
            _LONG_S,
            path=path,
            kind=kind,
            layout=layout,
            interval=interval,
            filters=filters,
        )
        return count

    async def export_delta(self, table: str, start_ms: int) -> int:
        """Have the owner append to a Delta Lake table; how many records."""
        count: int = await self._ask("export_delta", _LONG_S, table=table, start_ms=start_ms)
        return count

    async def adjust(self, adjustments: Sequence[Adjustment]) -> int:
        """Add adjustments of calls that the live state no longer knows; how many were new."""
        added: int = await self._ask("adjust", adjustments=adjustments)
        return added

    async def facts(self) -> dict[str, Any]:
        """As `LedgerStore.facts`, and what the owner knows of its lag."""
        found: dict[str, Any] = await self._ask("facts")
        return found

    async def _ask(self, name: str, timeout_s: float = _TIMEOUT_S, /, **given: Any) -> Any:
        verb = verbs()[name]
        texts = [b'"%b":%b' % (key.encode(), verb.given[key].dump_json(value)) for key, value in given.items()]
        line = b'{"ask":"%b","given":{%b}}\n' % (name.encode(), b",".join(texts))
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._exchange(line)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise LedgerUnavailable("the ledger's process does not run, or is just starting") from error
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise LedgerUnavailable(f"the ledger's process does not answer: {error or 'too slow'}") from error
        answer = orjson.loads(reply)
        if "error" in answer:
            raise LedgerUnavailable(answer["error"])
        return verb.value.validate_python(answer["value"], strict=False)

    async def _exchange(self, line: bytes) -> bytes:
        with socket_path(self._data_dir, self._namespace) as path:
            reader, writer = await asyncio.open_unix_connection(path, limit=LIMIT_BYTES)
        try:
            writer.write(line)
            await writer.drain()
            return await reader.readuntil(b"\n")
        finally:
            writer.close()
