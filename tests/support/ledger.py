"""The ledger of a running gateway, held against its live state."""

import asyncio
import time
from collections import Counter
from pathlib import Path

from budget.connect import connect
from budget.redis_store import RedisBudgetStore
from core.errors import SpendgateError
from ledger.ports import CallsAsk, Interval, SpendAsk
from spendgate.ledger_client import LedgerClient
from tests.support.gateway import RunningGateway

ALL_TIME = Interval(0, 2**52)


def client_of(gateway: RunningGateway) -> LedgerClient:
    """Asks the gateway's ledger."""
    return LedgerClient(Path(gateway.environment["SPENDGATE_DATA_DIR"]), "main")


def wait_for_ledger(gateway: RunningGateway, within_s: float = 30.0) -> None:
    """Until every event is in it."""
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            facts = asyncio.run(client_of(gateway).facts())
            if not facts["lag"] and asyncio.run(_count(gateway)) == facts["sequence"]:
                return
        except SpendgateError:
            facts = {"lag": "no answer"}
        assert time.monotonic() < deadline_s, f"the ledger is behind: {facts}"
        time.sleep(0.05)


def assert_ledger_is_right(gateway: RunningGateway, within_s: float = 30.0) -> None:
    """It has what the accounts have, once: by account, by call and by cost record."""
    wait_for_ledger(gateway, within_s)
    ledger = client_of(gateway)
    posted: Counter[str] = Counter()
    for point in asyncio.run(ledger.postings(None)):
        posted[point.account_id] += point.posted_nano
    assert posted == asyncio.run(_spent(gateway))
    (calls,) = asyncio.run(ledger.calls(SpendAsk(ALL_TIME)))
    (spend,) = asyncio.run(ledger.spend(SpendAsk(ALL_TIME)))
    assert calls.cost_nano == spend.cost_usd * 10**9
    identities = [call.identity for call in asyncio.run(ledger.call_list(CallsAsk(ALL_TIME, limit=10**6)))]
    assert len(identities) == len(set(identities))


async def _count(gateway: RunningGateway) -> int:
    store = _store(gateway)
    try:
        return (await store.look()).sequence
    finally:
        await store.close()


async def _spent(gateway: RunningGateway) -> Counter[str]:
    store = _store(gateway)
    try:
        return Counter({b.id: b.spent_nano for b in await store.balances(await store.all_accounts()) if b.spent_nano})
    finally:
        await store.close()


def _store(gateway: RunningGateway) -> RedisBudgetStore:
    return RedisBudgetStore(connect(gateway.store_url()))
