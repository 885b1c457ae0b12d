"""A thousand callers leave at once: nothing of theirs stays behind."""

import asyncio
import resource
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.support.rig import Rig, running_rig
from tests.support.waiting import eventually

DBRX = "databricks-dbrx-instruct"
CROWD = 1000
#: The kernel decides which worker gets how many of them: each has room for all.
ROUTES = f"""
endpoints:
  one: {{kind: databricks, base_url: "${{DATABRICKS_BASE_URL}}", api_key: x, max_connections: {2 * CROWD}}}
models:
  - {{name: {DBRX}, endpoint: one, role: primary}}
"""
#: Until the last of a thousand upstream connections is closed; one alone is closed within a second.
LET_GO_S = 10.0
#: Connections to the store that a worker keeps once it has needed them.
POOL = 64
#: And those of the process that keeps the copy of the events.
SUPERVISOR = 8
#: Those that an idle worker has open besides: its socket, journal, logs, pipes, metrics and what its event loop needs.
OWN_FILES = 28


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    routes = tmp_path_factory.mktemp("routes") / "routes.yaml"
    routes.write_text(ROUTES)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))  # inherited by all that is started
    try:
        with running_rig(SPENDGATE_ROUTES=str(routes), SPENDGATE_LEASE_S="5") as running:
            yield running
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def call_and_leave(rig: Rig, agent: str, gone: asyncio.Event, *, stream: bool, heard: list[bytes]) -> None:
    """One call that resets its connection when told to; a streaming one has heard its first words by then."""
    fields = {"prompt": "Hello", "scopeType": "agent", "scopeKey": agent, "maxTokens": 200, "stream": stream}
    body = orjson.dumps(fields)
    head = f"POST /agent/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {rig.gateway.agent_key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    host, _, port = rig.gateway.url.rpartition("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + body)
    await writer.drain()
    if stream:
        heard.append(await reader.readuntil(b'"delta":'))
    await gone.wait()
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def crowd(rig: Rig, agent: str, *, stream: bool) -> None:
    """All call, all are served, all leave."""
    gone = asyncio.Event()
    heard: list[bytes] = []
    callers = [asyncio.create_task(call_and_leave(rig, agent, gone, stream=stream, heard=heard)) for _ in range(CROWD)]
    async with asyncio.timeout(60):
        while (len(heard) if stream else rig.to_upstream.holding) < CROWD:
            await asyncio.sleep(0.02)
    gone.set()
    await asyncio.gather(*callers)


def open_files(rig: Rig) -> int:
    """Descriptors of all workers together."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in rig.gateway.worker_pids())


def open_holds(rig: Rig) -> int:
    """What the workers that answer think they hold: a call that never ends counts here."""
    reports = [rig.gateway.request("GET", "/readyz", key=None).json for _ in range(8)]
    return max(int(report["openHolds"]) for report in reports)


@pytest.mark.parametrize("stream", [False, True], ids=["complete", "stream"])
def test_a_thousand_leave_at_once(rig: Rig, stream: bool) -> None:
    agent = f"crowd-{stream}"
    workers = set(rig.gateway.worker_pids())
    if stream:
        rig.simulator.change_model(DBRX, chunk_delay_ms=3000, output_tokens=200)
    else:
        rig.to_upstream.hold()
    asyncio.run(crowd(rig, agent, stream=stream))
    left_s = time.monotonic()
    rig.to_upstream.heal()
    eventually(lambda: rig.simulator.in_flight() == 0, "the upstream is let go")
    assert time.monotonic() - left_s < LET_GO_S
    rig.simulator.change_model(DBRX, chunk_delay_ms=0, output_tokens=None)
    # What a caller who left has got of a stream is known by its bytes alone; its tokens are an estimate that leans up.
    events = rig.settled(agent, exact=not stream, least=1)
    assert len(events) == CROWD
    assert {(e["type"], e["outcome"]) for e in events} == {("settle", "aborted")}
    assert open_holds(rig) == 0
    eventually(lambda: rig.to_upstream.open_links() == 0, "connections to the upstream stay")
    eventually(lambda: rig.to_store.open_links() <= 2 * POOL + SUPERVISOR, "connections to the store stay")
    eventually(lambda: open_files(rig) <= rig.to_store.open_links() + 2 * OWN_FILES, "other files stay open")
    assert set(rig.gateway.worker_pids()) == workers, "nobody died of it"
