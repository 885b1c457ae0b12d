"""The process that owns the ledger: it takes events in, trims the stream behind them, and answers questions.

Started by the supervisor as ``python -m spendgate.ledger_process --parent-fd M``. The embedded ledger is a file of one
process; that is this one. Questions come over a Unix socket in the data folder (`spendgate.ledger_wire`).

Failure policy: it may die at any moment and is started again; calls never wait for it. A question that fails is
answered with why.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from budget.connect import connect
from budget.readers import Readers
from budget.redis_store import RedisBudgetStore
from core.clock import SystemClock
from core.errors import SpendgateError
from core.ids import RandomIds
from ledger.errors import LedgerUnavailable
from ledger.ingest import Counted, Events, Ingest
from ledger.ports import LedgerStore
from spendgate.ledger_access import OwnLedger
from spendgate.ledger_wire import LIMIT_BYTES, Verb, socket_path, verbs
from spendgate.logs import set_up_logging
from spendgate.open_ledger import open_ledger
from spendgate.orphans import stop_with_parent
from spendgate.settings import Settings, read_settings
from spendgate.tasks import stop_all
from telemetry import metrics

log = logging.getLogger("spendgate.ledger")

_DAY_MS = 86_400_000
_TRIM_EVERY_S = 1.0
_PUBLISH_EVERY_S = 1.0
_STALE_READER_MS = 3_600_000


@dataclass(slots=True)
class StoreFeed:
    """`ledger.ingest.EventFeed` on the live state. name: of the ledger among the stream's readers."""

    store: RedisBudgetStore
    readers: Readers
    name: str

    async def now(self) -> Counted:
        """How far the live state is."""
        await self.store.trust()
        found = await self.store.look()
        return Counted(found.epoch or "", found.sequence, found.archived)

    async def place(self, event_id: str) -> None:
        """Go on behind this event."""
        await self.readers.place(self.name, event_id)

    async def read(self, count: int) -> Events:
        """The next events."""
        return await self.readers.read(self.name, count)

    async def refusals(self, after: str, count: int) -> Events:
        """Refusals behind one."""
        return await self.readers.refusals(after, count)

    async def done(self, event_ids: Sequence[str]) -> None:
        """These are in the ledger."""
        await self.readers.done(self.name, event_ids)


@dataclass(slots=True)
class Owner:
    """The ledger and what is done with it."""

    settings: Settings
    ledger: LedgerStore
    live: RedisBudgetStore
    clock: SystemClock
    ingest: Ingest
    readers: Readers
    trimmed: int = 0

    async def run(self) -> None:
        """Until cancelled."""
        (self.settings.data_dir / "ledger").mkdir(parents=True, exist_ok=True, mode=0o700)
        with socket_path(self.settings.data_dir, self.settings.namespace) as path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108 -- a path in /proc, of a socket that nobody listens on
            server = await asyncio.start_unix_server(self._serve, path, limit=LIMIT_BYTES)
            os.chmod(path, 0o600)  # noqa: PTH101 -- the same
        jobs = (self.ingest.run(), self._trim(), self._publish(), self._compact())
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            async with server:
                await asyncio.gather(*tasks)
        finally:
            await stop_all(tasks)
            await asyncio.to_thread(self.ledger.close)
            await self.live.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(await self.answer(line) + b"\n")
                await writer.drain()
        except (OSError, asyncio.LimitOverrunError, ValueError) as error:
            log.info("a question to the ledger broke off: %s", error)
        finally:
            writer.close()

    async def answer(self, line: bytes) -> bytes:
        """The reply to a line."""
        try:
            question = orjson.loads(line)
            verb = verbs()[question["ask"]]
            value = await self._value(question["ask"], verb, question["given"])
            return b'{"value":%b}' % verb.value.dump_json(value)
        except SpendgateError as error:
            return orjson.dumps({"error": error.message, "code": error.code})
        except (KeyError, TypeError, ValueError) as error:
            return orjson.dumps({"error": f"not a question: {error}", "code": "invalid_input"})
        except Exception as error:  # the asker must hear of it, and the next question be answered
            log.exception("a question to the ledger failed")
            return orjson.dumps({"error": f"the ledger failed: {type(error).__name__}", "code": "internal"})

    async def _value(self, name: str, verb: Verb, given: dict[str, Any]) -> Any:
        values = {key: verb.given[key].validate_python(value) for key, value in given.items()}
        value = await getattr(self.own, name)(**values)
        if name == "facts":
            value |= {"lag": self.ingest.lag, "behindMs": self.ingest.behind_ms, "missed": self.ingest.missed}
        return value

    @property
    def own(self) -> OwnLedger:
        """The ledger's answers."""
        return OwnLedger(self.ledger)

    async def _trim(self) -> None:
        """Let go of what every reader has, a while after it happened."""
        turns = 0
        while True:
            await asyncio.sleep(_TRIM_EVERY_S)
            try:
                before_ms = self.clock.now_ms() - round(self.settings.stream_keep_s * 1000)
                self.trimmed += await self.readers.trim(before_ms)
                turns += 1
                if turns % 600 == 1:
                    await self.readers.forget_old_accounts()
                    await self._warn_of_stale_readers()
            except SpendgateError as error:
                log.info("the stream is not trimmed now: %s", error.message)

    async def _warn_of_stale_readers(self) -> None:
        for reader in await self.readers.all():
            if (reader.idle_ms or 0) > _STALE_READER_MS:
                log.error(
                    "%s has not read the events for %d h and holds the stream back; if it is gone for good: "
                    "spendgate ledger forget-reader %s",
                    reader.name,
                    (reader.idle_ms or 0) // 3_600_000,
                    reader.name,
                )

    async def _publish(self) -> None:
        told = (0, 0, 0)
        while True:
            metrics.ledger_lag_events.set(self.ingest.lag)
            metrics.ledger_lag_seconds.set(self.ingest.behind_ms / 1000)
            with contextlib.suppress(SpendgateError):
                metrics.stream_events.set(await self.readers.length())
            now = (self.ingest.ingested, self.ingest.missed, self.trimmed)
            for counter, new, old in zip(_COUNTERS, now, told, strict=True):
                counter.inc(new - old)
            told = now
            await asyncio.sleep(_PUBLISH_EVERY_S)

    async def _compact(self) -> None:
        settings = self.settings
        while True:
            await asyncio.sleep(settings.ledger_compact_every_s)
            now_ms = self.clock.now_ms()
            keep_events_ms = max(settings.ledger_keep_events_days * _DAY_MS, 2_000 * settings.keep_holds_s)
            try:
                await asyncio.to_thread(
                    self.ledger.compact,
                    keep_events_from_ms=now_ms - keep_events_ms,
                    keep_calls_from_ms=now_ms - settings.ledger_keep_calls_days * _DAY_MS,
                )
            except LedgerUnavailable as error:
                log.error("the ledger is not compacted now: %s", error.message)


_COUNTERS = (metrics.ledger_ingested, metrics.ledger_missed, metrics.stream_trimmed)


def build(settings: Settings) -> Owner:
    """The owner of the ledger that the settings name.

    Raises:
        ConfigError: the ledger can't be opened.
    """
    clock = SystemClock()
    live = RedisBudgetStore(connect(settings.redis_url or ""), namespace=settings.namespace)
    readers = Readers(live)
    ledger = open_ledger(settings, RandomIds(clock))
    ingest = Ingest(ledger, StoreFeed(live, readers, f"ledger:{ledger.id()}"), clock)
    return Owner(settings, ledger, live, clock, ingest, readers)


async def _main(settings: Settings, parent_fd: int) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    stop_with_parent(parent_fd)
    with contextlib.suppress(asyncio.CancelledError):
        await build(settings).run()


def main() -> int:
    """Own the ledger until told to stop; the process's exit code."""
    parser = argparse.ArgumentParser(prog="spendgate ledger")
    parser.add_argument("--parent-fd", type=int, required=True, help="pipe that closes when the supervisor dies")
    arguments = parser.parse_args()
    try:
        settings = read_settings()
        set_up_logging(settings.log_level)
        asyncio.run(_main(settings, arguments.parent_fd))
    except SpendgateError as error:
        print(f"spendgate: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
