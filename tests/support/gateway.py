"""Spendgate itself as real processes, for tests: supervisor, workers, embedded store, simulated Databricks."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from budget.embedded import running_url
from tests.support.stores import PATIENT

_ROOT = Path(__file__).resolve().parents[2]
_START_S = 40.0
_STOP_S = 45.0
_SETTLED_S = 5.0
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "CI", "VIRTUAL_ENV")

ADMIN_KEY = "sg_admin_test00000000_" + "a" * 64


@dataclass
class Answer:
    """An HTTP answer, read to its end; header names are lower-case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class RunningGateway:
    """A running `spendgate serve`. agent_key: the quickstart key, which may name any agent, user, team, …"""

    url: str
    agent_key: str
    process: subprocess.Popen[bytes]
    banner: str
    log: Path
    admin_key: str = ADMIN_KEY
    simulator_url: str | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = "agent",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request. key: ``agent``, ``admin``, None for none, or a key's text. body: bytes, or sent as JSON."""
        text = {"agent": self.agent_key, "admin": self.admin_key}.get(key or "", key)
        head = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {text}"} if text else {})
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, raw, head | (headers or {}), method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())

    def chat(self, prompt: str = "Hello", agent: str = "demo", **fields: Any) -> Answer:
        """``POST /agent/chat``."""
        return self.request("POST", "/agent/chat", {"prompt": prompt, "scopeType": "agent", "scopeKey": agent} | fields)

    def spend(self, agent: str) -> dict[str, Any]:
        """The dashboard's view of an agent: its first budget. What was just answered has a moment to be settled."""
        deadline_s = time.monotonic() + _SETTLED_S
        while True:
            answer = self.request("GET", f"/api/dashboard/spend/{agent}?scopeType=agent", key="admin")
            assert answer.status == 200, answer.body
            found: dict[str, Any] = answer.json
            scope: dict[str, Any] = found["scopes"][0] if "scopes" in found else found
            if not scope.get("held") or time.monotonic() > deadline_s:
                return scope
            time.sleep(0.02)

    def put_budget(self, **spec: Any) -> dict[str, Any]:
        """Create a budget; its answer."""
        answer = self.request("POST", "/api/budgets", spec, key="admin")
        assert answer.status == 201, answer.body
        created: dict[str, Any] = answer.json
        return created

    def store_url(self) -> str:
        """Where the live state is, for a test that looks on."""
        url = self.environment.get("REDIS_URL")
        return url or running_url(Path(self.environment["SPENDGATE_DATA_DIR"]) / "valkey") + PATIENT

    def worker_pids(self) -> list[int]:
        """Processes that serve."""
        return self._children("spendgate.worker")

    def _children(self, module: str) -> list[int]:
        out = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return [int(line.split()[0]) for line in out.stdout.splitlines() if module in line]

    def ledger_pid(self) -> int | None:
        """The process that owns the ledger; None while there is none."""
        return next(iter(self._children("spendgate.ledger_process")), None)

    def store_pid(self) -> int:
        """The embedded store's process."""
        facts = Path(self.environment["SPENDGATE_DATA_DIR"]) / "valkey" / "server.json"
        return int(json.loads(facts.read_text())["pid"])

    def stop(self) -> int:
        """SIGTERM, and wait for the end; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_S)

    def kill(self) -> None:
        """Kill -9 the supervisor and its workers: what a power cut of the machine's processes leaves."""
        for pid in [self.process.pid, *self.worker_pids()]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait(_STOP_S)


@contextmanager
def running_gateway(folder: Path | None = None, /, **environment: str) -> Iterator[RunningGateway]:
    """`spendgate serve` on a free port, ready to serve; stopped for sure at the end.

    folder: its data; a temporary one if None. environment: settings, such as ``BUDGET_DEFAULT_LIMIT="0.01"``.
    """
    with tempfile.TemporaryDirectory() as temporary:
        gateway = start_gateway(folder or Path(temporary), **environment)
        try:
            yield gateway
        finally:
            if gateway.process.poll() is None:
                gateway.process.send_signal(signal.SIGTERM)
                try:
                    gateway.process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    gateway.process.kill()
                    gateway.process.wait()


def start_gateway(folder: Path, /, **environment: str) -> RunningGateway:
    """Start, and wait for the banner.

    Raises:
        AssertionError: it ended, or was not ready in time; holds its log.
    """
    own = {
        "PORT": "0",
        "SPENDGATE_DATA_DIR": str(folder / "data"),
        "SPENDGATE_ADMIN_KEY": ADMIN_KEY,
        "SPENDGATE_LEDGER": "off",  # one process less, for the tests that are not about it
        "PYTHONPATH": str(_ROOT),
    }
    inherited = {k: v for k, v in os.environ.items() if k in _PASSED_ON}
    full = inherited | own | environment
    folder.mkdir(parents=True, exist_ok=True)
    out, log = folder / "stdout.txt", folder / "stderr.txt"
    with out.open("wb") as stdout, log.open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "spendgate", "serve"], env=full, stdout=stdout, stderr=stderr, cwd=folder
        )
    banner = _wait_for_banner(process, out, log)
    url = re.search(r"ready: (\S+)", banner)
    key = re.search(r"agent key  (sg_agent\S+)", banner)
    simulator = re.search(r"simulated Databricks at (\S+)", banner)
    assert url
    return RunningGateway(
        url[1],
        key[1] if key else "",
        process,
        banner,
        log,
        admin_key=full["SPENDGATE_ADMIN_KEY"],
        simulator_url=simulator[1] if simulator else None,
        environment=full,
    )


def _wait_for_banner(process: subprocess.Popen[bytes], out: Path, log: Path) -> str:
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        text = out.read_text()
        if "ready: " in text and ("Try it" in text or "make one with" in text) and text.endswith("\n"):
            return text
        assert process.poll() is None, f"spendgate serve ended with {process.returncode}: {log.read_text()}"
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"spendgate serve was not ready in {_START_S} s: {log.read_text()}")
