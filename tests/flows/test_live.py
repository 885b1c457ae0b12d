"""What moves, as programs hear it over a WebSocket; the pages' own stream is in tests/browser."""

import asyncio
import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.gateway import RunningGateway, running_gateway
from tests.support.simulated import running_simulator


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    with running_simulator() as simulator:
        upstream = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "x"}
        with running_gateway(SPENDGATE_CLIENT_TIMEOUT_S="1", **upstream) as running:
            yield running


def address(gateway: RunningGateway) -> str:
    return gateway.url.replace("http://", "ws://") + "/ws/events"


def listening(gateway: RunningGateway, key: str | None = None) -> connect:
    return connect(address(gateway), additional_headers={"Authorization": f"Bearer {key or gateway.admin_key}"})


async def heard(socket: ClientConnection, scope: str, state: str = "Active") -> dict[str, Any]:
    """The newest that is said of a scope, once it has the state."""
    async with asyncio.timeout(15):
        while True:
            for account in json.loads(await socket.recv()):
                if account["scope"] == scope and account["state"] == state and account["heldUsd"] == "0.00":
                    found: dict[str, Any] = account
                    return found


async def ask(gateway: RunningGateway, agent: str) -> int:
    return (await asyncio.to_thread(gateway.chat, agent=agent, maxTokens=20)).status


async def test_money_that_moves_is_told(gateway: RunningGateway) -> None:
    async with listening(gateway) as socket, listening(gateway) as other:
        made = gateway.put_budget(scopeType="agent", scopeKey="heard", limitUsd="5", hardCap="1")
        assert await ask(gateway, "heard") == 200
        account = await heard(socket, "agent:heard")
        assert account == await heard(other, "agent:heard")
        assert float(account["spentUsd"]) == gateway.spend("heard")["spent"] > 0
        changed = gateway.request("PATCH", f"/api/budgets/{made['id']}", {"limitUsd": "0.000001"}, key="admin")
        assert changed.status == 200
        assert (await heard(socket, "agent:heard", "Stopped"))["limitUsd"] == "0.000001"
        await asyncio.sleep(3)  # longer than a client may take for a request
        assert await ask(gateway, "other") == 200
        assert await heard(socket, "agent:other")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, {"Origin": "http://elsewhere"}])
async def test_who_may_not_listen_is_not_let_in(gateway: RunningGateway, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(address(gateway), additional_headers=headers):
            pass
    assert caught.value.response.status_code == 403


async def test_an_agents_key_is_not_let_in(gateway: RunningGateway) -> None:
    with pytest.raises(InvalidStatus):
        async with listening(gateway, gateway.agent_key):
            pass


async def test_a_key_that_is_taken_away_ends_it(gateway: RunningGateway) -> None:
    made = gateway.request("POST", "/api/keys", {"name": "short", "role": "admin"}, key="admin").json
    async with listening(gateway, made["key"]) as socket:
        assert await ask(gateway, "before") == 200
        assert await heard(socket, "agent:before")
        assert gateway.request("DELETE", f"/api/keys/{made['id']}", key="admin").status == 204
        assert await ask(gateway, "after") == 200
        with pytest.raises(ConnectionClosed) as caught:
            await heard(socket, "agent:after")
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1008


async def test_who_listens_does_not_keep_it_from_stopping() -> None:
    with running_gateway(SPENDGATE_DRAIN_S="600") as gateway:
        form = urllib.parse.urlencode({"key": gateway.admin_key}).encode()
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        await asyncio.to_thread(opener.open, f"{gateway.url}/login", form)
        page = await asyncio.to_thread(opener.open, f"{gateway.url}/ui/events")
        async with listening(gateway) as socket:
            assert json.loads(await socket.recv()) == []
            assert await asyncio.to_thread(page.readline) == b"data: []\n"
            assert await asyncio.to_thread(gateway.stop) == 0
            with pytest.raises(ConnectionClosed):
                await socket.recv()
        assert (await asyncio.to_thread(page.read)).strip() == b""
        assert "Traceback" not in gateway.log.read_text()
