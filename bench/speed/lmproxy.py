"""LM-Proxy (Python: FastAPI and the OpenAI SDK): one connection, one key, no loggers."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.speed.contestant import MODEL, Serving
from bench.speed.peer import Command, PythonEnvironment, started
from bench.speed.tools import Upstream
from tests.support.stores import free_port

_KEY = "bench"
_CONFIG = """\
host = "127.0.0.1"
port = {port}
[connections.bench]
api_type = "open_ai"
api_base = "{upstream}/v1/"
api_key = "none"
[routing]
"*" = "bench.{model}"
[groups.default]
api_keys = ["{key}"]
"""


class LMProxy:
    """lm-proxy."""

    name = "LM-Proxy"
    budgets = "none"

    def __init__(self) -> None:
        self._environment = PythonEnvironment("lm-proxy", "lm-proxy==3.3.2")
        self.version = self._environment.version
        self.missing = self._environment.missing
        self.install = self._environment.install

    @contextmanager
    def run(self, upstream: Upstream) -> Iterator[Serving]:
        """As its documentation starts it."""
        with tempfile.TemporaryDirectory(prefix="sg-") as name:
            port, folder = free_port(), Path(name)
            config = folder / "config.toml"
            config.write_text(_CONFIG.format(port=port, upstream=upstream.url, model=MODEL, key=_KEY))
            command: Command = [self._environment.bin / "lm-proxy", "--config", config, "--env", ""]
            with started(command, folder, port) as pids:
                yield Serving(f"127.0.0.1:{port}", pids, headers={"Authorization": f"Bearer {_KEY}"})
