"""Numbers for Prometheus, of all processes of one gateway together.

Each process writes its own into files in one folder, named by PROMETHEUS_MULTIPROC_DIR; any of them can answer for all
(https://prometheus.github.io/client_python/multiprocess/). The variable must be set before this module is imported;
without it a process speaks for itself alone. No number names a scope, a key or a prompt.
"""

import os

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

CONTENT_TYPE = CONTENT_TYPE_LATEST

open_holds = Gauge("spendgate_open_holds", "Holds of calls that run now", multiprocess_mode="livesum")
waiting_settlements = Gauge(
    "spendgate_waiting_settlements", "Ends of calls that wait on disk for the store", multiprocess_mode="livesum"
)
store_lost = Gauge(
    "spendgate_store_lost",
    "1 while the store's memory can't be trusted and calls are refused",
    multiprocess_mode="livemax",
)
overages = Counter("spendgate_overages", "Calls that cost more than they held")
overage_nanodollars = Counter("spendgate_overage_nanodollars", "By how much they did")
expired_holds = Counter("spendgate_expired_holds", "Holds that nobody settled, charged in full")

verify_runs = Counter("spendgate_verify_runs", "How often the books were verified")
verify_drift = Gauge(
    "spendgate_verify_drift", "Truths that did not hold at the last time", multiprocess_mode="livemostrecent"
)
verified_at = Gauge(
    "spendgate_verified_timestamp_seconds", "When the books were last verified", multiprocess_mode="livemostrecent"
)
archive_lag = Gauge(
    "spendgate_archive_lag_events", "Events of the store that are not copied yet", multiprocess_mode="livemostrecent"
)
ledger_lag_events = Gauge(
    "spendgate_ledger_lag_events", "Events that are not in the ledger yet", multiprocess_mode="livemostrecent"
)
ledger_lag_seconds = Gauge(
    "spendgate_ledger_lag_seconds", "How far the ledger is behind", multiprocess_mode="livemostrecent"
)
ledger_ingested = Counter("spendgate_ledger_ingested_events", "Events taken into the ledger")
ledger_missed = Counter("spendgate_ledger_missed_events", "Events that had gone before the ledger had them")
stream_events = Gauge(
    "spendgate_stream_events", "Events in the live state's stream", multiprocess_mode="livemostrecent"
)
stream_trimmed = Counter("spendgate_stream_trimmed_events", "Events that the stream has let go")
rebuilds = Counter("spendgate_rebuilds", "How often the store was rebuilt from the copy")


def render() -> bytes:
    """All numbers of all processes, in Prometheus' text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget_process(pid: int) -> None:
    """A process has died: what it last said of the present no longer counts; its totals stay."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]
