"""Shepherd Model Gateway (Rust), formerly SGLang's router: one upstream, without retries, checks and history."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.speed.contestant import Serving
from bench.speed.peer import Command, PythonEnvironment, started
from bench.speed.tools import Upstream
from tests.support.stores import free_port

_LEAN = (
    *("--backend", "openai", "--policy", "round_robin", "--history-backend", "none", "--log-level", "error"),
    *("--disable-health-check", "--disable-retries", "--disable-circuit-breaker", "--disable-load-monitoring"),
    *("--max-concurrent-requests", "0", "--prometheus-host", "127.0.0.1"),
)


class Smg:
    """smg launch."""

    name = "smg"
    budgets = "none"

    def __init__(self) -> None:
        self._environment = PythonEnvironment("smg", "smg==1.13.0")
        self.version = self._environment.version
        self.missing = self._environment.missing
        self.install = self._environment.install

    @contextmanager
    def run(self, upstream: Upstream) -> Iterator[Serving]:
        """As a router in front of one OpenAI-compatible server."""
        with tempfile.TemporaryDirectory(prefix="sg-") as folder:
            port = free_port()
            command: Command = [self._environment.bin / "smg", "launch", "--host", "127.0.0.1", "--port", str(port)]
            command += ["--worker-urls", upstream.url, "--prometheus-port", str(free_port()), *_LEAN]
            with started(command, Path(folder), port) as pids:
                yield Serving(f"127.0.0.1:{port}", pids, headers={"Authorization": "Bearer none"})
