"""Money across the end of a period: what was held before it is charged to the account that it was held on."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from budget.model import Budget
from tests.budget.worker import BOT, Worker

LAST_MOMENT_MS = 1_000
CASES = [
    ("daily", "Europe/Berlin", "2027-03-29", "2027-03-28", "2027-03-29"),  # a day of 23 hours ends
    ("daily", "Europe/Berlin", "2027-11-01", "2027-10-31", "2027-11-01"),  # one of 25
    ("daily", "America/New_York", "2027-03-15", "2027-03-14", "2027-03-15"),
    ("monthly", "UTC", "2027-03-01", "2027-02", "2027-03"),
    ("daily", "UTC", "2028-02-29", "2028-02-28", "2028-02-29"),
    ("daily", "UTC", "2028-03-01", "2028-02-29", "2028-03-01"),
    ("monthly", "UTC", "2028-03-01", "2028-02", "2028-03"),
    ("monthly", "Asia/Tokyo", "2027-05-01", "2027-04", "2027-05"),
    ("yearly", "Pacific/Auckland", "2028-01-01", "2027", "2028"),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1].rpartition('/')[2]}-{case[2]}")
def case(request: pytest.FixtureRequest) -> tuple[Worker, int, str, str]:
    """A worker a second before the boundary; the boundary; the accounts before and after it."""
    cadence, zone, day, before, after = request.param
    boundary_ms = round(datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)
    worker = Worker()
    worker.clock.at_ms = boundary_ms - LAST_MOMENT_MS
    worker.book.put(Budget("b", BOT, 100, cadence=cadence, zone=zone))
    return worker, boundary_ms, f"b:{before}:bot", f"b:{after}:bot"


async def balances(worker: Worker, *accounts: str) -> list[tuple[int, int]]:
    return [(row.spent_nano, row.held_nano) for row in await worker.memory.balances(accounts)]


async def test_a_settlement_after_the_boundary_charges_the_old_period(case: tuple[Worker, int, str, str]) -> None:
    worker, boundary_ms, old, new = case
    admission = await worker.hold("h1", 60)
    assert admission.account_ids == (old,)
    worker.clock.at_ms = boundary_ms
    assert (await worker.hold("h2", 60)).account_ids == (new,), "the new period has all its money"
    assert await balances(worker, old, new) == [(0, 60), (0, 60)]
    await worker.settle(admission, 50)
    assert await balances(worker, old, new) == [(50, 0), (0, 60)]


async def test_the_last_moment_belongs_to_the_old_period(case: tuple[Worker, int, str, str]) -> None:
    worker, boundary_ms, old, new = case
    worker.clock.at_ms = boundary_ms - 1
    assert (await worker.hold("h1")).account_ids == (old,)
    worker.clock.at_ms = boundary_ms
    assert (await worker.hold("h2")).account_ids == (new,)


async def test_an_expiry_and_a_late_settlement_charge_the_old_period(case: tuple[Worker, int, str, str]) -> None:
    worker, boundary_ms, old, new = case
    admission = await worker.hold("h1", 60)
    worker.clock.at_ms = boundary_ms + worker.service.lease_ms
    assert await worker.service.sweep() == 1
    assert await balances(worker, old, new) == [(60, 0), (0, 0)]
    await worker.settle(admission, 10)
    assert await balances(worker, old, new) == [(10, 0), (0, 0)]


async def test_a_void_after_the_boundary_releases_in_the_old_period(case: tuple[Worker, int, str, str]) -> None:
    worker, boundary_ms, old, new = case
    admission = await worker.hold("h1", 60)
    worker.clock.at_ms = boundary_ms
    worker.service.void(admission, b"{}")
    await worker.service.all_ended()
    assert await balances(worker, old, new) == [(0, 0), (0, 0)]
