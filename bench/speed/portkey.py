"""Portkey's AI Gateway (Node.js): the open-source server, which keeps nothing.

Its HTTP server is pinned too: with 1.19.19, which its own range allows, it answers every stream with 500.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.speed.contestant import Serving
from bench.speed.peer import NodeEnvironment, started
from bench.speed.tools import Upstream
from tests.support.stores import free_port


class Portkey:
    """@portkey-ai/gateway."""

    name = "Portkey"
    budgets = "none"

    def __init__(self) -> None:
        self._environment = NodeEnvironment("portkey", "@portkey-ai/gateway", "1.15.2", {"@hono/node-server": "1.13.8"})
        self.version = self._environment.version
        self.missing = self._environment.missing
        self.install = self._environment.install

    @contextmanager
    def run(self, upstream: Upstream) -> Iterator[Serving]:
        """Without its console. Each call names its provider."""
        with tempfile.TemporaryDirectory(prefix="sg-") as folder:
            port = free_port()
            script = self._environment.package / "build" / "start-server.js"
            environment = {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}
            with started(["node", script, f"--port={port}", "--headless"], Path(folder), port, environment) as pids:
                headers = {
                    "Authorization": "Bearer none",
                    "x-portkey-provider": "openai",
                    "x-portkey-custom-host": f"{upstream.url}/v1",
                }
                yield Serving(f"127.0.0.1:{port}", pids, headers=headers)
