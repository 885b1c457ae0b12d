"""The product with its ledger in ClickHouse: from a call over HTTP to the answers of the ledger."""

import asyncio
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ledger.ports import CallsAsk, Filter, SpendAsk
from tests.support.chdb_server import chdb_server
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.ledger import ALL_TIME, assert_ledger_is_right, client_of, wait_for_ledger
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        chdb_server(tmp_path_factory.mktemp("chdb"), password="s3cret") as server,
        server.database("books") as url,
        running_gateway(SPENDGATE_LEDGER=url, SPENDGATE_STREAM_KEEP_S="10") as running,
    ):
        yield running


def test_calls_are_recorded_once(gateway: RunningGateway):
    answers = [gateway.chat(agent=f"agent{n % 3}").json for n in range(12)]
    assert_ledger_is_right(gateway)
    asked = CallsAsk(ALL_TIME, (Filter("agent", ("agent0", "agent1", "agent2")),))
    calls = asyncio.run(client_of(gateway).call_list(asked))
    assert {c.request_id for c in calls} == {a["requestId"] for a in answers}
    spend = asyncio.run(client_of(gateway).spend(SpendAsk(ALL_TIME, ("agent",))))
    assert {row.group[0] for row in spend} >= {"agent0", "agent1", "agent2"}
    facts = asyncio.run(client_of(gateway).facts())
    assert (facts["engine"], facts["lag"]) == ("clickhouse", 0)


def test_its_process_is_killed_in_mid_traffic(gateway: RunningGateway):
    for turn in range(3):
        pid = gateway.ledger_pid()
        assert pid
        for _ in range(10):
            gateway.chat(agent=f"killed{turn}")
        os.kill(pid, signal.SIGKILL)
        gateway.chat(agent=f"killed{turn}")
        eventually(partial(_is_another, gateway, pid), "it is started again")
    wait_for_ledger(gateway)
    assert_ledger_is_right(gateway)


def test_no_log_names_the_password(gateway: RunningGateway):
    assert "s3cret" not in gateway.log.read_text()


def _is_another(gateway: RunningGateway, pid: int) -> bool:
    return gateway.ledger_pid() not in (None, pid)


def test_the_server_is_away_for_a_while(tmp_path: Path):
    """Calls go on, also those of a gateway that begins meanwhile; what they cost is there afterwards, once."""
    with chdb_server(tmp_path) as server:
        port = server.port
        server.execute("CREATE DATABASE books")
    with running_gateway(SPENDGATE_LEDGER=f"clickhouse://127.0.0.1:{port}/books") as gateway:
        assert gateway.chat(agent="alone").status == 200
        with chdb_server(tmp_path, port=port):
            gateway.chat(agent="recorded")
            assert_ledger_is_right(gateway, within_s=30)
        for _ in range(5):
            assert gateway.chat(agent="alone").status == 200
        with chdb_server(tmp_path, port=port):
            assert_ledger_is_right(gateway, within_s=30)
