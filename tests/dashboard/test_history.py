"""What pages are told of a ledger: a real one, with a day of calls."""

from collections.abc import Iterator

import pytest

from dashboard.history import history_of, spend_chart
from dashboard.ranges import Range, range_of
from ledger.duckdb_store import DuckDbLedger
from spendgate.ledger_access import OwnLedger
from tests.ledger.events import HOUR_MS, Stream

MODELS = {"model": "mixtral", "state": "Degraded"}


@pytest.fixture(scope="module")
def stream() -> Stream:
    """Two agents; one is downgraded, then refused; a webhook tells of a third."""
    made = Stream()
    for _ in range(3):
        made.settle(made.hold("bot", "ml"))
    made.now_ms += 5 * HOUR_MS
    made.settle(made.hold("scout", "ops"), model="mixtral", state="Degraded")
    made.refuse("scout", "ops", needed_nano=123)
    made.post("wh-1")
    return made


@pytest.fixture(scope="module")
def ledger(stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnLedger]:
    store = DuckDbLedger(tmp_path_factory.mktemp("ledger") / "l.duckdb", new_id="ldg_test")
    store.append(stream.batch(store.position()))
    yield OwnLedger(store)
    store.close()


def shown(stream: Stream, **query: str) -> Range:
    return range_of(query, stream.now_ms + 60_000)


async def test_everything(ledger: OwnLedger, stream: Stream):
    view = shown(stream)
    known = await history_of(ledger, view, (), "agent")
    assert known.missing is None and known.total and known.calls is not None
    assert (known.total.calls, known.total.downgraded, known.total.refused) == (5, 1, 1)
    assert known.total.avoided_nano == 123 and known.newest_ms == known.webhook_ms == stream.now_ms
    bot, scout, other = (stream.spent[f"agents:month-2026-11:{a}"] for a in ("bot", "scout", "helicone"))
    assert known.spent_nano == known.today_nano == bot + scout + other
    assert known.hour_nano == scout + other
    assert {row.group[0] for row in known.by_group} == {"bot", "scout", "helicone"}
    assert known.choices["model"] == ["dbrx", "mixtral", "sonnet"] and "webhook" in known.choices["source"]
    chart = spend_chart(known, view)
    assert len(chart["labels"]) == len(view.buckets()) == 25
    assert {s["name"]: round(sum(s["usd"]) * 1e9) for s in chart["series"]}["bot"] == bot


@pytest.mark.parametrize(
    ("query", "calls", "agents"),
    [
        ({"scope": "team:ops"}, 1, {"scout"}),
        ({"model": "dbrx"}, 3, {"bot"}),
        ({"provider": "OpenAI"}, 1, {"helicone"}),
        ({"outcome": "downgraded"}, 1, {"scout"}),
        ({"outcome": "answered", "scope": "agent:bot"}, 3, {"bot"}),
        ({"outcome": "answered", "scope": "agent:scout", "model": "dbrx"}, 0, set()),
    ],
)
async def test_a_filter_narrows_every_part(ledger: OwnLedger, stream: Stream, query, calls, agents):
    known = await history_of(ledger, shown(stream, **query), (), "agent")
    assert (known.total.calls if known.total else 0) == calls
    assert {row.group[0] for row in known.by_group if row.cost_usd} == agents
    assert known.spent_nano == sum(stream.spent[f"agents:month-2026-11:{agent}"] for agent in agents)
    assert {call.agent or "helicone" for call in known.calls or [] if not call.refusal} == agents


async def test_refused_calls_cost_nothing_and_are_listed(ledger: OwnLedger, stream: Stream):
    known = await history_of(ledger, shown(stream, outcome="refused"), (), "agent")
    assert known.total and (known.total.refused, known.spent_nano) == (1, 0)
    assert [call.refusal for call in known.calls or []] == ["budget_exceeded"]


async def test_calls_are_left_out_where_they_are_not_known(ledger: OwnLedger, stream: Stream):
    known = await history_of(ledger, shown(stream, source="webhook"), (), "agent")
    assert known.total is None and known.calls is None
    assert known.spent_nano == stream.spent["agents:month-2026-11:helicone"]
