"""A replay in a process of its own: what is asked gets there whole, and what goes wrong comes back as words."""

import asyncio
import pickle
from decimal import Decimal
from pathlib import Path

import pytest

from budget.model import Budget, DowngradeRule, Policy, Reset, TopUp
from core.scope import Scope
from dashboard.what_if import ReplayAsk
from ledger.errors import LedgerUnavailable
from ledger.ports import Interval
from spendgate.replaying import ReplayProcess
from tests.dashboard.conftest import prices, routes

POLICY = Policy(Decimal("0.123456789"), Decimal("1.5"), (DowngradeRule("*", "mixtral"),), ("web",), False, False, 7)
BUDGET = Budget(
    "b-1",
    Scope("team", "größer"),
    2**53 - 1,
    "every:6h",
    "Asia/Kathmandu",
    POLICY,
    top_ups=(TopUp("top_1", "t1", None, 5, 6, "a launch", 7),),
    resets=(Reset("t1", "k", "why", 8),),
)
ASK = ReplayAsk(BUDGET, None, Interval(1, 2), (("*", "mixtral"),), ("own",), 1.0)


def test_what_is_asked_gets_there_whole():
    ask, there, priced = pickle.loads(pickle.dumps((ASK, routes(), prices())))
    assert ask == ASK and there.find("big") == routes().find("dbrx")
    assert priced.price_at("dbrx", 2 * 10**12) == prices().price_at("dbrx", 2 * 10**12)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPENDGATE_DATA_DIR", str(tmp_path))
    return tmp_path


async def test_a_ledger_that_is_away_is_told_of(elsewhere: Path):
    with pytest.raises(LedgerUnavailable, match="does not run, or is just starting"):
        await ReplayProcess(routes(), prices()).replay(ASK)


async def test_a_process_that_ends_badly_and_one_that_hangs(elsewhere: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("spendgate.replaying.sys.executable", "/bin/false")
    with pytest.raises(LedgerUnavailable, match="without an answer"):
        await ReplayProcess(routes(), prices()).replay(ASK)
    endless = elsewhere / "endless"
    endless.write_text("#!/bin/sh\necho $$ >&2\nexec sleep 600\n")
    endless.chmod(0o755)
    monkeypatch.setattr("spendgate.replaying.sys.executable", str(endless))
    monkeypatch.setattr("spendgate.replaying._GRACE_S", -0.5)
    replays = ReplayProcess(routes(), prices())
    for _ in range(2):  # the next one is not kept waiting by it
        async with asyncio.timeout(10):
            with pytest.raises(LedgerUnavailable, match="too long"):
                await replays.replay(ASK)
