"""Who follows the store's event stream, and how far: each reader is a consumer group of its own.

Events go when every reader has them for good and they are old enough; what they came to stays, in `Trimmed`,
so that the books can be checked without them. A reader that is no longer there holds the stream back until it is
forgotten (`spendgate ledger forget-reader`).

Failure policy: nothing here is in the way of a call. What fails is tried again at the next turn.
"""

from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

from budget.connect import STORE_ERRORS
from budget.redis_store import RedisBudgetStore
from budget.script import Script
from budget.texts import event_fields
from budget.verify import MONEY_EVENTS, event_order
from core.errors import StoreUnavailable
from core.values import value

#: Events that are added up for one step.
_PAGE = 2_000
_ACKS = 5_000
_CONSUMER = "owner"

Events = list[tuple[str, dict[str, str]]]


@value
class Reader:
    """A reader. safe_id: it has this event and all before it for good. idle_ms: since it last read; None: unknown."""

    name: str
    safe_id: str
    waiting: int
    idle_ms: int | None


@dataclass(slots=True)
class Readers:
    """The readers of one store's stream."""

    store: RedisBudgetStore
    _trim: Script = field(default_factory=lambda: Script("budget", "trim"))

    async def place(self, name: str, event_id: str) -> None:
        """Say that a reader has everything up to this event ("": nothing) for good, and will go on behind it.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        await self.mark(name, event_id)
        key, at = self.store.key("events"), event_id or "0"
        while pending := await self._pending(name, at, _ACKS):
            await _answered(self._client.xack(key, name, *pending))

    async def mark(self, name: str, event_id: str) -> None:
        """The same of a reader that does not `read`, but reads the stream by itself.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        key, at = self.store.key("events"), event_id or "0"
        try:
            await self._client.xgroup_setid(key, name, at)
        except ResponseError:  # there is no such group, or no stream yet
            await _answered(self._client.xgroup_create(key, name, at, mkstream=True))
        except STORE_ERRORS as error:
            raise StoreUnavailable(f"the store did not answer: {error}") from error

    async def read(self, name: str, count: int) -> Events:
        """The next events of a reader, oldest first; they are its own until `done`.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        key = self.store.key("events")
        reply = await _answered(self._client.xreadgroup(name, _CONSUMER, {key: ">"}, count))
        return _rows(reply)

    async def done(self, name: str, event_ids: Sequence[str]) -> None:
        """Events are with the reader for good.

        Raises:
            StoreUnavailable: the store does not answer; it is said again when the reader is placed.
        """
        for start in range(0, len(event_ids), _ACKS):
            await _answered(self._client.xack(self.store.key("events"), name, *event_ids[start : start + _ACKS]))

    async def refusals(self, after: str, count: int) -> Events:
        """Refusals behind one ("": from the first that is kept), oldest first: they are a stream of their own.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        first = f"({after}" if after else "-"
        return _decoded(await _answered(self._client.xrange(self.store.key("refusals"), first, "+", count)))

    async def forget(self, name: str) -> bool:
        """A reader will not come back; whether there was one.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        return bool(await _answered(self._client.xgroup_destroy(self.store.key("events"), name)))

    async def all(self) -> list[Reader]:
        """Every reader.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        key = self.store.key("events")
        if not await _answered(self._client.exists(key)):
            return []
        found = []
        for group in await _answered(self._client.xinfo_groups(key)):
            name, waiting = group["name"].decode(), int(group["pending"])
            safe_id = group["last-delivered-id"].decode()
            if waiting:
                (first,) = await self._pending(name, "+", 1) or (safe_id,)
                safe_id = _before(first)
            idle = [int(row["idle"]) for row in await _answered(self._client.xinfo_consumers(key, name))]
            found.append(Reader(name, safe_id, waiting, min(idle) if idle else None))
        return found

    async def length(self) -> int:
        """How many events the stream has now.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        return int(await _answered(self._client.xlen(self.store.key("events"))))

    async def trim(self, older_than_ms: int) -> int:
        """Forget events that every reader has and that are from before an instant (the store's epoch milliseconds);
        how many. Without any reader none goes.

        Raises:
            StoreUnavailable: the store does not answer, or is being rebuilt.
        """
        readers = await self.all()
        if not readers:
            return 0
        # The last event that a reader has is what it knows its place by, so that one stays.
        end = min([event_order(_before(r.safe_id)) for r in readers] + [(older_than_ms, 0)])
        trimmed = (await self.store.trimmed()).id
        gone = 0
        while True:
            page = await self.store.events(f"({trimmed}" if trimmed else "-", _PAGE)
            rows = [row for row in page if event_order(row[0]) <= end]
            if rows:
                trimmed = await self._forget_events(rows, trimmed)
                gone += len(rows)
            if len(rows) < _PAGE:
                return gone

    async def _forget_events(self, rows: Events, trimmed: str) -> str:
        posted: Counter[str] = Counter()
        began: set[str] = set()
        ended: set[str] = set()
        for _, event in rows:
            if event["type"] == "hold":
                began.add(event["hold"])
            elif event["type"] in MONEY_EVENTS:
                if event["before"] == "held":
                    ended.add(event["hold"])
                for account in event["accounts"].split("\n"):
                    posted[account] += int(event["delta_nano"])
        args = [trimmed, rows[-1][0], str(len(rows)), str(len(posted))]
        for account, nano in posted.items():
            args += [account, str(nano)]
        args += [str(len(began)), *sorted(began), *sorted(ended)]
        reply = await self.store.link.call(
            self._trim, [self.store.key("trimmed"), self.store.key("trimmed", "holds")], args
        )
        return str(reply[1].decode())

    async def forget_old_accounts(self) -> None:
        """What trimmed events came to, of accounts that are no longer kept, goes too.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        kept = set(await self.store.all_accounts())
        gone = [account for account in (await self.store.trimmed()).spent_nano if account not in kept]
        for start in range(0, len(gone), _ACKS):
            names = [f"a:{account}" for account in gone[start : start + _ACKS]]
            await _answered(self._client.hdel(self.store.key("trimmed"), *names))

    async def _pending(self, name: str, last: str, count: int) -> list[str]:
        """Ids of events that were read and are not done, up to one."""
        rows = await _answered(self._client.xpending_range(self.store.key("events"), name, "-", last, count))
        return [row["message_id"].decode() for row in rows]

    @property
    def _client(self) -> Any:
        return self.store.link.client


async def _answered(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except STORE_ERRORS as error:
        raise StoreUnavailable(f"the store did not answer: {error}") from error


def _before(event_id: str) -> str:
    """The greatest id below this one."""
    ms, number = event_order(event_id)
    return f"{ms}-{number - 1}" if number else f"{max(ms - 1, 0)}-{2**63}"


def _rows(reply: Any) -> Events:
    """Of one stream."""
    if not reply:
        return []
    rows = next(iter(reply.values()))[0] if isinstance(reply, dict) else reply[0][1]
    return _decoded(rows)


def _decoded(rows: Any) -> Events:
    return [(i.decode(), event_fields(fields)) for i, fields in rows]
