"""The engines that hold the contract of a ledger's store, by name: each opens what is kept at a location."""

from collections.abc import Callable
from pathlib import Path

from ledger.clickhouse_store import ClickHouseLedger
from ledger.duckdb_store import DuckDbLedger
from ledger.ports import LedgerStore


def duckdb_at(location: str) -> LedgerStore:
    """location: a folder."""
    return DuckDbLedger(Path(location) / "ledger.duckdb", new_id="ldg_1", memory_mib=256)


def clickhouse_at(location: str) -> LedgerStore:
    """location: a URL."""
    return ClickHouseLedger(location, new_id="ldg_1")


#: A further engine is added here, and what gives it a place of its own in tests/contracts/ledger/conftest.py.
ENGINES: dict[str, Callable[[str], LedgerStore]] = {"duckdb": duckdb_at, "clickhouse": clickhouse_at}
