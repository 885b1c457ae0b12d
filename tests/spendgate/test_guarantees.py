"""What is said to hold, holds in this configuration; what does not is said."""

from dataclasses import replace

import pytest

from budget.connect import ServerReport
from core.errors import ConfigError
from routing.model import OnAbort, Routes
from spendgate.bootstrap import _check_waiting
from spendgate.catalog import SIMULATED, load_catalog
from spendgate.guarantees import guarantees
from spendgate.settings import Role, Settings

REPORT = ServerReport("valkey", "9.1.2", "master", True, "everysec", "noeviction", 0)


@pytest.fixture(scope="module")
def routes() -> Routes:
    return load_catalog(Settings(), SIMULATED)[0]


def missing(routes: Routes, report: ServerReport = REPORT, settings: Settings | None = None) -> str:
    found = guarantees(report, routes, settings or Settings())
    assert [g.holds for g in found] == sorted((g.holds for g in found), reverse=True), "what does not hold comes last"
    return "\n".join(g.text for g in found if not g.holds)


def drained(routes: Routes) -> Routes:
    return Routes(routes.models, [replace(e, on_abort=OnAbort.DRAIN) for e in routes.endpoints.values()])


def test_the_embedded_default_has_two_gaps(routes: Routes):
    disk, streams = missing(routes).split("\n")
    assert "SPENDGATE_FSYNC=always" in disk
    assert "on_abort: drain" in streams


def test_both_can_be_closed(routes: Routes):
    assert missing(drained(routes), replace(REPORT, appendfsync="always")) == ""


@pytest.mark.parametrize(
    ("report", "gap"),
    [
        (replace(REPORT, appendonly=False), "keeps no append-only file"),
        (replace(REPORT, maxmemory_bytes=1, maxmemory_policy="allkeys-lru"), "evicts keys (allkeys-lru)"),
        (replace(REPORT, problems=["this server is a replica"]), "this server is a replica"),
        (replace(REPORT, replicas=1), "SPENDGATE_WAIT_REPLICAS=1 closes this"),
    ],
)
def test_a_store_with_a_gap(routes: Routes, report: ServerReport, gap: str):
    assert gap in missing(routes, report)


def test_what_closes_the_gaps(routes: Routes):
    text = "\n".join(g.text for g in guarantees(replace(REPORT, replicas=1), routes, Settings(wait_replicas=1)))
    assert "only after 1 replica(s) have its hold" in text and "closes this." not in text.split("SPENDGATE_FSYNC")[0]
    assert "its hold is on disk" in "\n".join(g.text for g in guarantees(REPORT, routes, Settings(wait_fsync=True)))
    gateway = "\n".join(g.text for g in guarantees(REPORT, routes, Settings(role=Role.GATEWAY)))
    assert "a control process, which keeps a copy" in gateway


def test_waiting_that_can_not_work_stops_the_start(caplog: pytest.LogCaptureFixture):
    with pytest.raises(ConfigError, match="not on a cluster"):
        _check_waiting(Settings(wait_replicas=1), REPORT, "redis+cluster://a:1")
    with pytest.raises(ConfigError, match=r"needs Redis or Valkey 7\.2; the store is 7\.0\.15"):
        _check_waiting(Settings(wait_fsync=True), replace(REPORT, product="redis", version="7.0.15"), "redis://a")
    _check_waiting(Settings(), replace(REPORT, version="7.0.15"), "redis+cluster://a:1")
    assert not caplog.records
    _check_waiting(Settings(wait_replicas=2), replace(REPORT, replicas=1), "redis://a")
    assert "SPENDGATE_WAIT_REPLICAS is 2 and 1 are connected" in caplog.text
