"""The live state on Redis >= 7 or Valkey >= 7.2, one node or a cluster.

Failure policy: that of `budget.link`; the caller admits nothing. A reply that was lost is repaired by asking again
with the same id.

Layout; every key carries the hash tag ``{namespace}``, so that all accounts of a chain live in one slot:

    sg:{ns}:a:<account>   hash   spent held state terms         one per budget, period and scope key
    sg:{ns}:a             zset   accounts by the end of their period
    sg:{ns}:hold:<id>     text   status amount cost accounts …  kept `keep_ms` after its end; see `budget.texts`
    sg:{ns}:leases        zset   open holds by the end of their lease (store's clock)
    sg:{ns}:events        stream holds, money, terms, states, documents, in order; see `budget.readers`
    sg:{ns}:trimmed       hash   what its events came to that are gone; sg:{ns}:trimmed:holds, set: of them still open
    sg:{ns}:epoch         hash   id seq doubt opens archived was:<id> …  see lua/epoch.lua
    sg:{ns}:refusals      stream the last 100,000 or so refusals
    sg:{ns}:version, :documents, :changed   the snapshot of budgets and keys
"""

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

from budget.checks import check_request, check_resolution, check_text
from budget.connect import STORE_ERRORS, ServerReport, StoreClient, check_server, close
from budget.hot_commands import HotCommands, read_hold, read_refusal, read_resolve
from budget.link import NOBODY, REBUILDING, Acks, Link, trusted
from budget.model import (
    Hold,
    HoldStatus,
    Refusal,
    ReserveRequest,
    Resolution,
    Settlement,
    StaleSnapshot,
)
from budget.ports import (
    ACCOUNT_KEPT_AFTER_END_MS,
    AccountBalance,
    Change,
    Continuity,
    DueHold,
    FoundHold,
    OpenHold,
)
from budget.script import Script
from budget.texts import event_fields, hold_text
from budget.verify import Trimmed
from core.errors import Conflict, StoreLost, StoreUnavailable


class RedisBudgetStore:
    """`budget.ports.BudgetStore` and `Documents` on Redis or Valkey.

    namespace: the hash tag; deployments with different namespaces share nothing.
    keep_ms: how long an ended hold is remembered, for late settlements, webhooks and retries.
    acks: who else must have a hold before `reserve` returns it.
    """

    def __init__(
        self, client: StoreClient, *, namespace: str = "main", keep_ms: int = 86_400_000, acks: Acks = NOBODY
    ) -> None:
        self.link = Link(client, namespace, acks)
        self.key = self.link.key
        self._client = client
        self._command = self.link.command
        self._hot = HotCommands(self.key, keep_ms)
        self._restore = Script("budget", "restore")
        self._extend = Script("budget", "extend")
        self._agree = Script("budget", "agree")
        self._put = Script("budget", "put_document")

    async def found(self, epoch: str) -> None:
        """Begin the books in an empty namespace; where there are books, they go on."""
        await self._command("HSETNX", self.key("epoch"), "id", epoch)

    @property
    def epoch(self) -> str | None:
        """The epoch that this process works in; None: not known yet."""
        return self.link.epoch

    @property
    def sequence(self) -> int:
        """The highest count of events that this process has seen."""
        return self.link.sequence

    async def look(self) -> Continuity:
        """What the store says of its memory."""
        return await self.link.look()

    def join(self, epoch: str, sequence: int) -> None:
        """Work in this epoch from now on."""
        self.link.join(epoch, sequence)

    def reserve(self, request: ReserveRequest) -> Awaitable[Hold | Refusal | StaleSnapshot]:
        """Hold the ceiling of the first candidate that fits on all its accounts, or on none."""
        check_request(request)
        read = partial(self._read_reserve, request, self.link.epoch)
        return self.link.send(self._hot.reserving, partial(self._hot.reserve, request), read, acknowledged=True)

    def resolve(self, resolution: Resolution, *, replayed_ms: int | None = None) -> Awaitable[Settlement]:
        """End a hold: post what it cost, release it, append the event.

        replayed_ms: when it happened, where a rebuild repeats an event.
        """
        check_resolution(resolution)
        read = partial(self._read_resolve, self.link.epoch)
        return self.link.send(self._hot.resolving, partial(self._hot.resolve, resolution, replayed_ms), read)

    def _read_reserve(
        self, request: ReserveRequest, epoch: str | None, reply: bytes | list[Any]
    ) -> Hold | Refusal | StaleSnapshot:
        if isinstance(reply, bytes):
            hold, sequence = read_hold(request, reply)
            self.link.saw(sequence, epoch)
            return hold
        return read_refusal(request, trusted(reply))

    def _read_resolve(self, epoch: str | None, reply: bytes | list[Any]) -> Settlement:
        settlement = read_resolve(reply if isinstance(reply, bytes) else trusted(reply))
        self.link.saw(settlement.sequence, epoch)
        return settlement

    async def restore(self, hold: OpenHold, lease_ms: int, *, replayed_ms: int | None = None) -> HoldStatus:
        """Hold again what a rebuilt store does not know; the status that it has now."""
        keys = [self.key("leases"), self.key("hold", hold.id), *(self.key("a", a) for a in hold.account_ids)]
        args: list[str | bytes] = [hold.id, str(hold.amount_nano), str(hold.candidate), str(hold.tokens)]
        args += ["\n".join(hold.account_ids), hold.owner, hold.detail, str(lease_ms)]
        args.append("" if replayed_ms is None else str(replayed_ms))
        epoch = self.epoch
        reply = await self.link.call(self._restore, keys, args)
        self.link.saw(reply[1], epoch)
        return HoldStatus(reply[0].decode())

    async def find(self, hold_id: str) -> FoundHold | None:
        """What is remembered of a hold; None if nothing."""
        raw = await self._command("GET", self.key("hold", hold_id))
        if raw is None:
            await self.trust()
            return None
        hold = hold_text(raw)
        return FoundHold(HoldStatus(hold.status), hold.account_ids, int(hold.amount), int(hold.cost))

    async def extend(self, hold_ids: Sequence[str], lease_ms: int) -> list[str]:
        """Renew leases; returns the ids that are no longer held."""
        if not hold_ids:
            return []
        reply = await self.link.call(self._extend, [self.key("leases")], [str(lease_ms), *hold_ids])
        return [g.decode() for g in reply[1:]]

    async def due(self, limit: int) -> list[DueHold]:
        """Holds whose lease is over by the store's clock, oldest first."""
        seconds, micros = await self._command("TIME", self.key("leases"))
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        # Accounts expire by themselves; their entries in the index go here, where somebody looks regularly.
        await self._command("ZREMRANGEBYSCORE", self.key("a"), "-inf", str(now_ms - ACCOUNT_KEPT_AFTER_END_MS))
        ids = await self._command("ZRANGEBYSCORE", self.key("leases"), "-inf", str(now_ms), "LIMIT", "0", str(limit))
        due = []
        for hold_id in ids:
            raw = await self._command("GET", self.key("hold", hold_id.decode()))
            due.append(DueHold(hold_id.decode(), hold_text(raw).account_ids if raw else ()))
        return due

    async def balances(self, account_ids: Sequence[str]) -> list[AccountBalance]:
        """Balances, in the order asked."""
        if not account_ids:
            return []
        pipeline = self._client.pipeline(transaction=False)
        for account in account_ids:
            pipeline.hmget(self.key("a", account), "spent", "held")
        try:
            rows = await pipeline.execute()
        except STORE_ERRORS as error:
            raise StoreUnavailable(f"the store did not answer: {error}") from error
        return [
            AccountBalance(account, int(spent or 0), int(held or 0))
            for account, (spent, held) in zip(account_ids, rows, strict=True)
        ]

    async def current_accounts(self, now_ms: int) -> list[str]:
        """Ids of the accounts whose period is not over."""
        ids = await self._command("ZRANGEBYSCORE", self.key("a"), f"({now_ms}", "+inf")
        if not ids:
            await self.trust()
        return [i.decode() for i in ids]

    async def all_accounts(self) -> list[str]:
        """Ids of every account that is kept."""
        ids = await self._command("ZRANGE", self.key("a"), "0", "-1")
        return [i.decode() for i in ids]

    async def open_holds(self) -> list[OpenHold]:
        """Every hold that has not ended."""
        found = []
        for hold_id in await self._command("ZRANGE", self.key("leases"), "0", "-1"):
            raw = await self._command("GET", self.key("hold", hold_id.decode()))
            hold = hold_text(raw) if raw else None
            if hold and hold.status == HoldStatus.HELD:
                found.append(OpenHold(hold_id.decode(), int(hold.amount), hold.account_ids))
        return found

    async def changes_since(self, version: int) -> tuple[int, list[Change]]:
        """(newest version, every document that changed after `version`, in its present form)."""
        newest = int(await self._command("GET", self.key("version")) or 0)
        if not newest or newest < version:
            await self.trust()  # else budgets and keys would be forgotten with the store's memory
        if newest == version:
            return newest, []
        lowest = f"({version}" if newest > version else "-inf"  # a smaller version: the store was replaced
        changed = await self._command("ZRANGEBYSCORE", self.key("changed"), lowest, "+inf", "WITHSCORES")
        names, scores = changed[0::2], changed[1::2]
        texts = await self._command("HMGET", self.key("documents"), *names) if names else []
        changes = []
        for name, score, text in zip(names, scores, texts, strict=True):
            kind, _, document_id = name.decode().partition(":")
            changes.append(Change(kind, document_id, text, int(float(score))))
        # A document may have changed again between the two reads; the version read first makes it come again.
        return newest, changes

    async def put(self, kind: str, document_id: str, text: bytes | None, *, expected: int | None = None) -> int:
        """Write or delete a document; returns the new version."""
        check_text(kind, document_id, text or b"")
        keys = [self.key(k) for k in ("version", "documents", "changed")]
        args: list[str | bytes] = [f"{kind}:{document_id}", "delete" if text is None else "put", text or b""]
        args.append("" if expected is None else str(expected))
        epoch = self.epoch
        reply = await self.link.call(self._put, keys, args)
        if reply[0] == b"conflict":
            raise Conflict(f"{kind} {document_id} was changed meanwhile, or exists already")
        self.link.saw(reply[1], epoch)
        return int(reply[2])

    async def events(self, after: str = "-", count: int = 1000) -> list[tuple[str, dict[str, str]]]:
        """Events of money, state and configuration, oldest first: (stream id, fields)."""
        rows = await self._command("XRANGE", self.key("events"), after, "+", "COUNT", str(count))
        return [(stream_id.decode(), event_fields(fields)) for stream_id, fields in rows]

    async def trimmed(self) -> Trimmed:
        """What came before the first event in the stream."""
        while True:
            rows = await self._command("HGETALL", self.key("trimmed"))
            pairs = rows.items() if isinstance(rows, dict) else zip(rows[0::2], rows[1::2], strict=True)
            found = {name.decode(): value.decode() for name, value in pairs}
            if not found:
                return Trimmed()
            holds = await self._command("SMEMBERS", self.key("trimmed", "holds"))
            if await self._command("HGET", self.key("trimmed"), "id") == found["id"].encode():  # none went meanwhile
                spent = {name[2:]: int(nano) for name, nano in found.items() if name.startswith("a:")}
                return Trimmed(found["id"], int(found["events"]), spent, frozenset(h.decode() for h in holds))

    async def check(self) -> ServerReport:
        """What the server is and how safely it keeps data; see `budget.connect.check_server`."""
        return await check_server(self._client)

    async def ping(self) -> None:
        """Raises `StoreUnavailable` unless the store answers."""
        await self._command("EXISTS", self.key("version"))

    async def close(self) -> None:
        """Close the connections."""
        await close(self._client)

    # For the archive and a rebuild

    async def archived(self, sequence: int) -> None:
        """Say up to which event there is a copy elsewhere."""
        await self._command("HSET", self.key("epoch"), "archived", str(sequence))

    async def begin_rebuild(self, why: str, horizon_ms: int) -> int:
        """Put the store in doubt; the horizon of the rebuild, which stays that of its first try."""
        await self._command("HSET", self.key("epoch"), "doubt", why)
        await self._command("HSETNX", self.key("epoch"), "horizon", str(horizon_ms))
        return int(await self._command("HGET", self.key("epoch"), "horizon"))

    async def agree(self, account_id: str, terms: str, period_end_ms: str, keep_until_ms: str) -> None:
        """Give an account its limits and its place in the index, as in its event."""
        keys = [self.key("a"), self.key("a", account_id)]
        await self.link.call(self._agree, keys, [account_id, terms, period_end_ms, keep_until_ms])

    async def skip_versions(self, version: int) -> None:
        """Number the next document after this version at least."""
        if int(await self._command("GET", self.key("version")) or 0) < version:
            await self._command("SET", self.key("version"), str(version))

    async def end_rebuild(self, epoch: str, past: Sequence[str], archived: int, opens_after_ms: int) -> None:
        """Begin a new epoch, which continues those of the past, and admit holds a while later."""
        seconds, micros = await self._command("TIME", self.key("epoch"))
        opens_ms = int(seconds) * 1000 + int(micros) // 1000 + opens_after_ms
        fields = ["id", epoch, "archived", str(archived), "opens", str(opens_ms)]
        for was in past:
            fields += [f"was:{was}", "1"]
        await self._command("HSET", self.key("epoch"), *fields)
        await self._command("HDEL", self.key("epoch"), "doubt", "horizon")

    async def trust(self) -> None:
        """Raises `StoreLost` if the store's memory is empty, went back, or is in doubt."""
        if self.epoch == REBUILDING:
            return
        seen = self.link.sequence  # before asking: others count on meanwhile
        found = await self.look()
        if found.epoch is None or found.doubt:
            raise StoreLost(found.doubt or "it has no books")
        if found.epoch == self.epoch and found.sequence < seen:
            raise StoreLost(f"it went back from event {seen} to {found.sequence}")
