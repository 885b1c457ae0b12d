"""Rebuild a store that lost memory, from the archive of its events, to the same numbers.

How it goes:
1. The store is put in doubt: nothing but the rebuild writes to it.
2. The fork is found: the last archived event that the store still has. What the archive has after it is lost there.
3. What is lost is done again, through the same scripts as the first time: limits, documents, holds, money. Each has
   one effect whatever the store already knows, so a rebuild that was cut off simply starts again.
4. The archive takes over the store's events after the fork, so that it is its copy again.
5. The store opens under a new epoch, a moment later, so that every worker has said what it knows (`budget.witness`).

Of an empty store, what is older than holds are remembered is not done again event by event: each account gets the sum.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from budget.archive import Archive, Entry
from budget.link import REBUILDING
from budget.model import Basis, Resolution, ResolveMode
from budget.ports import OpenHold
from budget.redis_store import RedisBudgetStore
from budget.verify import event_order
from core.ids import derived_id

log = logging.getLogger("spendgate.budget")

#: How long all workers have to say what they know, before calls are admitted.
OPENS_AFTER_MS = 2_000
_PAGE = 1_000
_AT_ONCE = 50
_MONEY = frozenset(m.value for m in ResolveMode)


@dataclass(slots=True)
class Lost:
    """What the archive has and the store has not.

    start: where it begins in the archive's file. whole: the store has nothing of the archive.
    events: how many. terms, documents: the last of each account and document.
    sums: of money that is posted as one sum for each account, in nano-dollars; only if `whole`.
    single: the holds that are done again event by event; None: all.
    open_holds: that began before `horizon_ms` and have not ended.
    """

    start: int = 0
    whole: bool = True
    events: int = 0
    version: int = 0
    terms: dict[str, dict[str, str]] = field(default_factory=dict)
    documents: dict[str, dict[str, str]] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)
    single: set[str] = field(default_factory=set)
    open_holds: dict[str, OpenHold] = field(default_factory=dict)

    def alone(self, hold_id: str) -> bool:
        """Whether a hold's events are done again one by one."""
        return not self.whole or hold_id in self.single


@dataclass(slots=True)
class Rebuild:
    """One rebuild.

    store: of its own, not shared with anything else.
    keep_ms: how long ended holds are remembered. lease_ms: of holds that are held again.
    now_ms: this process's clock.
    """

    store: RedisBudgetStore
    archive: Archive
    keep_ms: int
    lease_ms: int
    now_ms: Callable[[], int]
    _trimmed: str = ""

    async def run(self, why: str, new_epoch: str) -> int:
        """Rebuild; how many events were lost.

        Raises:
            StoreUnavailable: the store went away; start again.
            ConfigError: the archive is damaged.
        """
        store, was = self.store, await self.store.look()
        horizon_ms = await store.begin_rebuild(why, self.now_ms() - 2 * self.keep_ms)
        store.join(REBUILDING, 0)
        fork = await self._fork()
        lost = self._survey(fork, horizon_ms)
        log.error("the store is being rebuilt from %d archived events: %s", lost.events, why)
        await self._terms(lost)
        await self._documents(lost)
        await self._sums(lost, horizon_ms)
        for hold in lost.open_holds.values():
            await self._hold(hold, lost)
        await self._singly(lost)
        after = [row async for row in self._after(fork)]
        self.archive.replace_tail(lost.start, after, f"events.before-{new_epoch}")
        past = {e for e in (was.epoch, self.archive.epoch) if e}
        self.archive.enter(new_epoch)
        await store.end_rebuild(new_epoch, sorted(past), self.archive.sequence, OPENS_AFTER_MS)
        log.error("the store is rebuilt: %d events, %d accounts", lost.events, len(lost.terms))
        return lost.events

    async def _fork(self) -> Entry | None:
        """The last archived event that the store has; it has all before it, because both are in order."""
        self._trimmed = (await self.store.trimmed()).id
        fork, entries = None, self.archive.entries()
        while page := list(islice(entries, _PAGE)):
            if await self._has(page[-1]):
                fork = page[-1]
                continue
            for entry in page:
                if not await self._has(entry):
                    return fork
                fork = entry
        return fork

    async def _has(self, entry: Entry) -> bool:
        return await has(self.store, entry, self._trimmed)

    def _survey(self, fork: Entry | None, horizon_ms: int) -> Lost:
        lost = Lost(start=fork.end if fork else 0, whole=fork is None)
        for entry in self.archive.entries(lost.start):
            lost.events += 1
            fields = entry.fields
            kind, recent = fields["type"], int(fields["at_ms"]) >= horizon_ms
            if kind == "terms":
                lost.terms[fields["account"]] = fields
            elif kind == "document":
                lost.documents[fields["id"]] = fields
                lost.version = max(lost.version, int(fields["version"]))
            elif lost.whole and kind == "hold":
                if recent:
                    lost.single.add(fields["hold"])
                else:
                    lost.open_holds[fields["hold"]] = _open_hold(fields)
            elif lost.whole and kind in _MONEY:
                _sum_up(lost, fields, recent)
        return lost

    async def _terms(self, lost: Lost) -> None:
        for account_id, fields in tuple(lost.terms.items()):
            if self._is_kept(fields):
                await self.store.agree(account_id, fields["terms"], fields["period_end_ms"], fields["keep_until_ms"])

    async def _documents(self, lost: Lost) -> None:
        """A document that was changed in the store after the fork stays as it is there."""
        version, changes = await self.store.changes_since(-1)
        newer = {f"{c.kind}:{c.id}": c for c in changes}
        await self.store.skip_versions(max(version, lost.version))
        for name, fields in lost.documents.items():
            known = newer.get(name)
            text = fields["text"].encode() if fields["change"] == "put" else None
            if known is None and text is None:
                continue
            if known and (known.text == text or known.version >= int(fields["version"])):
                continue
            kind, _, document_id = name.partition(":")
            await self.store.put(kind, document_id, text)

    async def _sums(self, lost: Lost, horizon_ms: int) -> None:
        for account_id, nano in lost.sums.items():
            if nano and self._is_kept(lost.terms.get(account_id)):
                hold_id = derived_id("rbd", str(horizon_ms), account_id)
                detail = b'{"outcome":"rebuilt"}'
                await self.store.resolve(
                    Resolution(hold_id, ResolveMode.POST, (account_id,), nano, Basis.EXACT, detail)
                )

    async def _singly(self, lost: Lost) -> None:
        """The events of one hold in their order; different holds at once."""
        entries = self.archive.entries(lost.start)
        while page := list(islice(entries, _PAGE)):
            of_hold: dict[str, list[Entry]] = {}
            for entry in page:
                hold_id = entry.fields.get("hold")
                if hold_id and lost.alone(hold_id):
                    of_hold.setdefault(hold_id, []).append(entry)
            holds = list(of_hold.values())
            for start in range(0, len(holds), _AT_ONCE):
                batch = (self._again(h, lost) for h in holds[start : start + _AT_ONCE])
                for outcome in await asyncio.gather(*batch, return_exceptions=True):  # none runs on after a failure
                    if isinstance(outcome, BaseException):
                        raise outcome

    async def _again(self, entries: list[Entry], lost: Lost) -> None:
        for entry in entries:
            fields, at_ms = entry.fields, int(entry.fields["at_ms"])
            if fields["type"] == "hold":
                await self._hold(_open_hold(fields), lost, at_ms)
            elif fields["type"] in _MONEY:
                await self._money(fields, lost, at_ms)

    async def _hold(self, hold: OpenHold, lost: Lost, at_ms: int | None = None) -> None:
        ids = self._kept_ids(hold.account_ids, lost)
        if ids:
            await self.store.restore(replace(hold, account_ids=ids), self.lease_ms, replayed_ms=at_ms)

    async def _money(self, fields: dict[str, str], lost: Lost, at_ms: int) -> None:
        found = await self.store.find(fields["hold"])
        accounts = found.account_ids if found else self._kept_ids(fields["accounts"].split("\n"), lost)
        if accounts:
            await self.store.resolve(
                Resolution(
                    fields["hold"],
                    ResolveMode(fields["type"]),
                    accounts,
                    int(fields["cost_nano"]),
                    Basis(fields["basis"]),
                    fields["detail"].encode(),
                ),
                replayed_ms=at_ms,
            )

    async def _after(self, fork: Entry | None) -> AsyncIterator[tuple[str, dict[str, str]]]:
        after = f"({max(fork.id, self._trimmed, key=event_order)}" if fork else "-"
        while page := await self.store.events(after, _PAGE):
            for row in page:
                yield row
            after = f"({page[-1][0]}"

    def _is_kept(self, fields: dict[str, str] | None) -> bool:
        """Whether an account with these terms is still kept; one without terms is."""
        return not (fields and fields["keep_until_ms"]) or int(fields["keep_until_ms"]) > self.now_ms()

    def _kept_ids(self, account_ids: Sequence[str], lost: Lost) -> tuple[str, ...]:
        return tuple(a for a in account_ids if self._is_kept(lost.terms.get(a)))


async def has(store: RedisBudgetStore, entry: Entry, trimmed_id: str) -> bool:
    """Whether a store has an archived event, or has had it and trimmed it.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    if event_order(entry.id) <= event_order(trimmed_id):
        return True
    found = await store.events(entry.id, 1)
    if "summary" in entry.fields:  # it stands for events up to one of this id
        return bool(found) and found[0][0] == entry.id
    return found == [(entry.id, entry.fields)]


def _sum_up(lost: Lost, fields: dict[str, str], recent: bool) -> None:
    hold_id = fields["hold"]
    if fields["before"] == "held":
        lost.open_holds.pop(hold_id, None)
    if recent and fields["before"] == "none":
        lost.single.add(hold_id)
    if hold_id not in lost.single:
        for account_id in fields["accounts"].split("\n"):
            lost.sums[account_id] = lost.sums.get(account_id, 0) + int(fields["delta_nano"])


def _open_hold(fields: dict[str, str]) -> OpenHold:
    return OpenHold(
        fields["hold"],
        int(fields["amount_nano"]),
        tuple(fields["accounts"].split("\n")),
        int(fields["candidate"]),
        int(fields["tokens"]),
        fields["owner"],
        fields["detail"].encode(),
    )
