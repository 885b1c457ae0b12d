"""Which ledger the settings name."""

from core.errors import ConfigError
from core.ids import Ids
from ledger.ports import LedgerStore
from spendgate.settings import Settings

EMBEDDED = "embedded"
OFF = "off"


def open_ledger(settings: Settings, ids: Ids) -> LedgerStore:
    """The ledger, opened for writing.

    Raises:
        ConfigError: it can't be opened, or another process owns it.
        LedgerUnavailable: its server can't be reached.
    """
    if settings.ledger == EMBEDDED:
        from ledger.duckdb_store import DuckDbLedger  # slow to load

        path = settings.data_dir / "ledger" / f"{settings.namespace}.duckdb"
        return DuckDbLedger(path, new_id=ids.new("ldg"), memory_mib=settings.ledger_memory_mib)
    if settings.ledger.partition("://")[0] in ("clickhouse", "clickhouses"):
        return _clickhouse(settings.ledger, ids.new("ldg"))
    # What it is instead may be a URL with a password in it.
    raise ConfigError(f"SPENDGATE_LEDGER must be {EMBEDDED}, {OFF} or clickhouse://user:password@host:8123/database")


def _clickhouse(url: str, new_id: str) -> LedgerStore:
    try:
        from ledger.clickhouse_store import ClickHouseLedger  # needs an extra
    except ModuleNotFoundError as error:
        raise ConfigError(f"for a ledger in ClickHouse: pip install 'spendgate[clickhouse]' ({error})") from None
    return ClickHouseLedger(url, new_id=new_id)
