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
    if settings.ledger.startswith(("clickhouse://", "clickhouses://")):
        try:
            from ledger.clickhouse_store import ClickHouseLedger  # of an extra
        except ImportError:
            raise ConfigError("a ledger in ClickHouse needs the extra: pip install 'spendgate[clickhouse]'") from None
        return ClickHouseLedger(settings.ledger, new_id=ids.new("ldg"))
    raise ConfigError(f"SPENDGATE_LEDGER must be {EMBEDDED}, {OFF} or a clickhouse:// URL")
