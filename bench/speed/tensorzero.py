"""TensorZero (Rust): its Python package carries the whole HTTP gateway, which it starts for patched OpenAI clients.

The gateway is the process's only work: Python sleeps. Observability, which wants ClickHouse or Postgres, is off, and
with it rate limits, which want Postgres or Valkey.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.speed.contestant import MODEL, Serving
from bench.speed.peer import Command, PythonEnvironment, started
from bench.speed.tools import Upstream
from tests.support.stores import free_port

_CONFIG = """\
[gateway]
observability.enabled = false
[models.{model}]
routing = ["bench"]
[models.{model}.providers.bench]
type = "openai"
model_name = "{model}"
api_base = "{upstream}/v1/"
api_key_location = "none"
"""

# It takes a port of its own choice, and forwards nothing else: the port that was asked for says when it is ready.
_PROGRAM = """\
import socket, sys, time
from tensorzero.tensorzero import _start_http_gateway
gateway = _start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False)
with open(sys.argv[2], "w") as file:
    file.write(gateway.base_url)
ready = socket.create_server(("127.0.0.1", int(sys.argv[3])))
while True:
    time.sleep(3600)
"""


class TensorZero:
    """TensorZero's gateway, embedded."""

    name = "TensorZero"
    budgets = "none"

    def __init__(self) -> None:
        self._environment = PythonEnvironment("tensorzero", "tensorzero==2026.6.0")
        self.version = self._environment.version
        self.missing = self._environment.missing
        self.install = self._environment.install

    @contextmanager
    def run(self, upstream: Upstream) -> Iterator[Serving]:
        """Its OpenAI-compatible surface."""
        with tempfile.TemporaryDirectory(prefix="sg-") as name:
            port, folder = free_port(), Path(name)
            (folder / "tensorzero.toml").write_text(_CONFIG.format(model=MODEL, upstream=upstream.url))
            (folder / "program.py").write_text(_PROGRAM)
            command: Command = [self._environment.bin / "python", "program.py", "tensorzero.toml", "address", str(port)]
            with started(command, folder, port, {"RUST_LOG": "error"}) as pids:
                address = (folder / "address").read_text().removeprefix("http://").split("/")[0]
                yield Serving(
                    address, pids, path="/openai/v1/chat/completions", model=f"tensorzero::model_name::{MODEL}"
                )
