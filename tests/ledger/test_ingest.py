"""Events reach the ledger once, whatever breaks between the stream and the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from core.errors import StoreUnavailable
from ledger import ingest as module
from ledger.errors import LedgerUnavailable
from ledger.ingest import Counted, Events, Ingest, Moved, NotCopied
from ledger.model import Batch, Position


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TURN_S", 0.0)
    monkeypatch.setattr(module, "BATCH", 3)


def event(number: int, sequence: int | None = None) -> tuple[str, dict[str, str]]:
    fields = {"type": "terms", "account": "a", "terms": "1 1 1", "at_ms": str(1000 + number)}
    return f"{1000 + number}-0", fields | {"seq": str(sequence or number)}


class Clock:
    def now_ms(self) -> int:
        return 5_000

    def monotonic_s(self) -> float:
        return 5.0


@dataclass
class Feed:
    """A stream in memory, with one reader."""

    rows: Events = field(default_factory=list)
    epoch: str = "ep_1"
    copied: int = 10**9
    at: str = ""
    let_go: list[str] = field(default_factory=list)
    placed: list[str] = field(default_factory=list)
    fails: list[str] = field(default_factory=list)

    def _fail(self, name: str) -> None:
        if name in self.fails:
            self.fails.remove(name)
            raise StoreUnavailable("away")

    async def now(self) -> Counted:
        return Counted(self.epoch, int(self.rows[-1][1]["seq"]) if self.rows else 0, self.copied)

    async def place(self, event_id: str) -> None:
        self._fail("place")
        self.at = event_id
        self.placed.append(event_id)

    async def read(self, count: int) -> Events:
        self._fail("read")
        found = [row for row in self.rows if row[0] > self.at][:count]
        self.at = found[-1][0] if found else self.at
        return found

    async def refusals(self, after: str, count: int) -> Events:
        return []

    async def done(self, event_ids: Sequence[str]) -> None:
        self._fail("done")
        self.let_go += event_ids


@dataclass
class Ledger:
    """What a ledger promises, without a database."""

    at: Position = field(default_factory=Position)
    identities: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    fails: list[str] = field(default_factory=list)

    def id(self) -> str:
        return "ldg_1"

    def position(self) -> Position:
        return self.at

    def append(self, batch: Batch) -> int:
        if "before" in self.fails:
            self.fails.remove("before")
            raise LedgerUnavailable("away")
        new = [e for e in batch.events if e.identity not in self.known]
        self.known.update(e.identity for e in new)
        self.identities += [f"{e.epoch}:{e.sequence}" for e in new]
        self.at = batch.position
        if "after" in self.fails:
            self.fails.remove("after")
            raise LedgerUnavailable("away, but it has the batch")
        return len(new)


def ingest(feed: Feed, ledger: Ledger) -> Ingest:
    return Ingest(ledger, feed, Clock())  # type: ignore[arg-type]


async def until_idle(one: Ingest) -> None:
    """With what fails in between tried again, as `run` does."""
    for _ in range(50):
        try:
            if not await one.turn() and not one.lag:
                return
        except (StoreUnavailable, LedgerUnavailable):
            one._placed = False
    raise AssertionError("it does not come to an end")


def expected(count: int) -> list[str]:
    return [f"ep_1:{n}" for n in range(1, count + 1)]


@pytest.mark.parametrize(
    ("of_feed", "of_ledger"),
    [
        ([], []),
        (["place"], []),
        (["read", "read"], []),
        (["done"], []),
        ([], ["before"]),
        ([], ["after"]),
        (["done", "read", "place"], ["before", "after"]),
    ],
)
async def test_every_event_once(of_feed: list[str], of_ledger: list[str]):
    feed, ledger = Feed([event(n) for n in range(1, 9)], fails=of_feed), Ledger(fails=of_ledger)
    one = ingest(feed, ledger)
    await until_idle(one)
    assert ledger.identities == expected(8)
    assert (ledger.at.sequence, one.lag, one.missed) == (8, 0, 0)
    assert feed.fails == ledger.fails == []


async def test_nothing_is_let_go_before_it_is_in():
    feed, ledger = Feed([event(1), event(2)]), Ledger(fails=["before"])
    with pytest.raises(LedgerUnavailable):
        await ingest(feed, ledger).turn()
    assert feed.let_go == []
    await ingest(feed, ledger).turn()
    assert feed.let_go == [event(1)[0], event(2)[0]]


async def test_it_goes_on_where_the_ledger_is():
    """The ledger, not the stream's reader, says where."""
    feed, ledger = Feed([event(n) for n in range(1, 6)]), Ledger()
    await until_idle(ingest(feed, ledger))
    copy = Ledger(identities=expected(2), known=set())  # from yesterday
    copy.at, ledger = Position("ep_1", 2, event(2)[0]), copy
    await until_idle(ingest(feed, ledger))
    assert feed.placed[-1] == event(2)[0]
    assert ledger.identities == expected(5)


async def test_events_that_are_gone_are_said(caplog: pytest.LogCaptureFixture):
    feed, ledger = Feed([event(n) for n in range(4, 6)]), Ledger(Position("ep_1", 1, event(1)[0]))
    one = ingest(feed, ledger)
    await until_idle(one)
    assert one.missed == 2
    assert "2 events had gone" in caplog.text


async def test_a_rebuilt_live_state_is_read_from_its_beginning():
    feed, ledger = Feed([event(n) for n in range(1, 4)]), Ledger()
    one = ingest(feed, ledger)
    await until_idle(one)
    feed.epoch, feed.rows = "ep_2", [event(7, 1), event(8, 2)]
    await until_idle(one)
    assert feed.placed[-1] == ""
    assert ledger.identities[-2:] == ["ep_2:1", "ep_2:2"]
    assert ledger.at == Position("ep_2", 2, event(8)[0])


async def test_what_was_read_while_it_was_rebuilt_is_read_again():
    feed, ledger = Feed([event(1)]), Ledger()
    one, read = ingest(feed, ledger), feed.read

    async def then_rebuilt(count: int) -> Events:
        found = await read(count)
        feed.epoch = "ep_2"
        return found

    feed.read = then_rebuilt  # type: ignore[method-assign]
    with pytest.raises(Moved):
        await one.turn()
    assert ledger.identities == []


async def test_the_ledger_is_never_ahead_of_the_copy():
    feed, ledger = Feed([event(1), event(2)], copied=1), Ledger()
    one = ingest(feed, ledger)
    with pytest.raises(NotCopied):
        await one.turn()
    assert ledger.identities == []
    feed.copied, one._placed = 2, False
    await until_idle(one)
    assert ledger.identities == expected(2)
