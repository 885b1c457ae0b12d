"""What became of a request, with the numbers of its accounts at that time."""

from ledger.duckdb_store import DuckDbLedger
from ledger.model import Position
from spendgate.ledger_access import OwnLedger
from tests.dashboard.conftest import Api
from tests.dashboard.test_pages import logged_in, send
from tests.ledger.events import Stream

BOT, ML = "agents:month-2026-11:bot", "teams:month-2026-11:ml"


async def test_a_refusal_names_every_account_as_it_stood(api: Api, ledger: DuckDbLedger):
    stream = Stream()
    stream.spent[BOT] = 900_000
    request_id = stream.refuse(needed_nano=400_000)
    ledger.append(stream.batch(Position()))
    api.deps.ledger = OwnLedger(ledger)
    (step,) = (await api.get(f"/api/explain/{request_id}")).json["events"]
    assert (step["event"], step["why"]) == ("refusal", "budget_exceeded")
    assert step["accounts"] == [
        {"account": BOT, "amount": None, "spentAfter": None, "decided": True, "state": "Warned"}
        | {"spent": 0.0009, "held": 0, "limit": 0.001, "hardLimit": 0.0012},
        {"account": ML, "amount": None, "spentAfter": None, "decided": False, "state": "Warned"}
        | {"spent": 0, "held": 0.0000005, "limit": 0.001, "hardLimit": 0.0012},
    ]
    page = await send(api, "GET", f"/ui/request/{request_id}", cookie=await logged_in(api))
    assert "■</span> refused" in page.text and "$0.000900" in page.text and "Warned" in page.text
    scope = await send(api, "GET", "/ui/scope/agent/bot", cookie=await logged_in(api))
    assert "agents: $0.000900 of $0.001200 spent, $0.000400 needed" in scope.text


async def test_an_admitted_call_has_them_with_its_end(api: Api, ledger: DuckDbLedger):
    stream = Stream()
    call = stream.hold(amount_nano=500_000)
    stream.settle(call, balances=[[0, 500_000, 0, 10**9, 12 * 10**8], [7, 500_000, 2, 5, 6]])
    older = stream.hold()
    stream.settle(older)
    ledger.append(stream.batch(Position()))
    api.deps.ledger = OwnLedger(ledger)
    held, settled = (await api.get(f"/api/explain/{call.request_id}")).json["events"]
    assert held["accounts"][0] == {"account": BOT, "amount": 0.0005, "spentAfter": None}
    first, second = settled["accounts"]
    assert (first["spent"], first["held"], first["limit"], first["state"]) == (0, 0.0005, 1, "Active")
    assert (second["account"], second["state"], second["decided"]) == (ML, "Degraded", False)
    assert first["spentAfter"] == first["amount"] > 0
    page = await send(api, "GET", f"/ui/request/{older.request_id}", cookie=await logged_in(api))
    assert page.status == 200 and "$0.000500" in page.text, "of events from before, what they say"
