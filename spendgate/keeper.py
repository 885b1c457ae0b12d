"""Keeps a copy of the store's events on this machine, and rebuilds a store that lost its memory.

One runs beside the workers of every process that is not a mere gateway. Before anything else is written it looks
whether the store still has what it had: a store that is empty or went back is rebuilt, one with other books is refused.
Then it follows the events, a few times a second.

Failure policy: a copy that can't be written is said and tried again; calls go on. A rebuild that fails is said and
tried again; calls are refused until it is done.
"""

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from budget.archive import Archive
from budget.connect import connect
from budget.ports import Continuity
from budget.readers import Readers
from budget.rebuild import Rebuild, has
from budget.redis_store import RedisBudgetStore
from budget.summary import summary_of_trimmed
from core.clock import Clock
from core.errors import ConfigError, StoreLost, StoreUnavailable
from core.ids import Ids
from spendgate.settings import Role, Settings
from telemetry import metrics

log = logging.getLogger("spendgate")

_TURN_S = 0.2
_AFTER_FAILURE_S = 2.0
_PAGE = 1_000
#: The archive's size at which it is compacted for the first time.
_COMPACT_AT_BYTES = 256 << 20


@dataclass(slots=True)
class Keeper:
    """The copy of one store's events.

    archive: None where another process on this machine keeps it.
    follows: False only remembers which books they are.
    """

    settings: Settings
    redis_url: str
    clock: Clock
    ids: Ids
    store: RedisBudgetStore
    archive: Archive | None
    follows: bool
    _compact_at_bytes: int = _COMPACT_AT_BYTES

    @property
    def readers(self) -> Readers:
        """Where it says how far it has come."""
        return Readers(self.store)

    @classmethod
    def open(cls, settings: Settings, redis_url: str, clock: Clock, ids: Ids) -> "Keeper":
        """Take the archive of the data folder."""
        store = RedisBudgetStore(connect(redis_url), namespace=settings.namespace)
        archive: Archive | None
        try:
            archive = Archive(settings.data_dir / "events" / settings.namespace)
        except BlockingIOError as error:
            log.warning("%s", error)
            archive = None
        return cls(settings, redis_url, clock, ids, store, archive, settings.role is not Role.GATEWAY)

    async def begin(self) -> None:
        """See that the store has its books: found them where there are none, rebuild what was lost.

        Raises:
            ConfigError: the store has other books than this data folder, or the archive is damaged.
            StoreLost: it lost its books, and this process has no copy.
            StoreUnavailable: it does not answer.
        """
        found, archive = await self.store.look(), self.archive
        if archive is None or (not self.follows and archive.epoch):
            if found.epoch is None:
                raise StoreLost("it has no books, and this process keeps no copy; start a control role first")
            return
        if found.epoch is None and archive.last is None:
            await self.store.found(self.ids.new("ep"))
            found = await self.store.look()
        why = await self._why_rebuild(found, archive)
        if why:
            await self._rebuild(why, archive)
        elif found.epoch:
            if archive.last is None and (await self.store.trimmed()).id:
                archive.append((await summary_of_trimmed(self.store)).events())
            archive.enter(found.epoch)
        if self.follows:
            await self._mark(archive)

    async def run(self) -> None:
        """Follow the events until cancelled."""
        if self.archive is None or not self.follows:
            return
        failed = ""
        while True:
            try:
                more = await self._turn(self.archive)
                failed = ""
            except (StoreUnavailable, ConfigError, OSError) as error:
                if str(error) != failed:
                    log.error("the copy of the store's events stands still: %s", error)
                more, failed = False, str(error)
            except Exception:  # whatever it is, calls go on, and it must be seen and tried again
                log.exception("the copy of the store's events failed")
                more, failed = False, "a bug"
            await asyncio.sleep(_AFTER_FAILURE_S if failed else 0 if more else _TURN_S)

    async def close(self) -> None:
        """Copy what came last, and give store and archive free."""
        if self.archive and self.follows:
            with contextlib.suppress(StoreUnavailable, ConfigError, OSError):
                while await self._turn(self.archive):
                    pass
        await self.store.close()
        if self.archive:
            self.archive.close()

    async def _turn(self, archive: Archive) -> bool:
        """Copy what is new; whether there is more at once."""
        found = await self.store.look()
        why = await self._why_rebuild(found, archive)
        if why:
            await self._rebuild(why, archive)
            return True
        if found.epoch and found.epoch != archive.epoch:
            archive.enter(found.epoch)
        rows = await self.store.events(f"({archive.last.id}" if archive.last else "-", _PAGE)
        if rows:
            await asyncio.to_thread(archive.append, rows)
        metrics.archive_lag.set(max(0, found.sequence - archive.sequence))
        if rows or found.archived != archive.sequence:
            await self.store.archived(archive.sequence)
            await self._mark(archive)
        elif archive.size_bytes > self._compact_at_bytes:
            await asyncio.to_thread(self._compact, archive)
        return len(rows) == _PAGE

    async def _why_rebuild(self, found: Continuity, archive: Archive) -> str | None:
        """What speaks against the store's memory.

        Raises:
            ConfigError: it is another store's.
        """
        if found.doubt:
            return found.doubt
        if found.epoch is None:
            return "it is empty"
        if archive.epoch is None or archive.last is None:
            return None
        if not found.continues(archive.epoch):
            raise ConfigError(
                f"the store has other books than {self.settings.data_dir}: is REDIS_URL or SPENDGATE_NAMESPACE right? "
                "To begin with the store's books, move the folder events in it away"
            )
        last = archive.last
        if found.sequence < archive.sequence:
            return f"it went back from event {archive.sequence} to {found.sequence}"
        if await has(self.store, last, (await self.store.trimmed()).id):
            return None
        return f"it has not the archived event {last.id}"

    async def _mark(self, archive: Archive) -> None:
        """Nothing that this copy has not is to be trimmed."""
        await self.readers.mark(archive.reader, archive.last.id if archive.last else "")

    def _compact(self, archive: Archive) -> None:
        now_ms = self.clock.now_ms()
        saved = archive.compact(now_ms - 2 * self.settings.keep_holds_s * 1000, now_ms)
        log.info("the copy of the store's events was compacted: %d bytes saved", saved)
        self._compact_at_bytes = max(_COMPACT_AT_BYTES, 2 * archive.size_bytes)

    async def _rebuild(self, why: str, archive: Archive) -> None:
        settings = self.settings
        store = RedisBudgetStore(
            connect(self.redis_url), namespace=settings.namespace, keep_ms=settings.keep_holds_s * 1000
        )
        try:
            rebuild = Rebuild(
                store, archive, settings.keep_holds_s * 1000, round(settings.lease_s * 1000), self.clock.now_ms
            )
            await rebuild.run(why, self.ids.new("ep"))
            metrics.rebuilds.inc()
            await self._mark(archive)
        finally:
            await store.close()
