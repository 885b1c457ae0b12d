"""rolter (Rust): its data plane alone, from a file. Its budgets want Postgres and Redis, so there are none.

Its queue in front of a provider, which lets 256 calls wait and refuses the rest, is off.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.speed.contestant import MODEL, Serving
from bench.speed.peer import Command, PythonEnvironment, started
from bench.speed.tools import Upstream
from tests.support.stores import free_port

_KEY = "sk-rolter-bench"
_CONFIG = """\
[server]
host = "127.0.0.1"
port = {port}
key_pepper = "bench"
[queue]
enabled = false
[[providers]]
name = "bench"
kind = "openai_compatible"
api_base = "{upstream}"
[[routes]]
model = "{model}"
strategy = "round_robin"
[[routes.targets]]
provider = "bench"
model = "{model}"
[[virtual_keys]]
key = "{key}"
name = "bench"
models = []
"""


class Rolter:
    """rolter gateway."""

    name = "rolter"
    budgets = "off"

    def __init__(self) -> None:
        self._environment = PythonEnvironment("rolter", "rolter==0.1.0")
        self.version = self._environment.version
        self.missing = self._environment.missing
        self.install = self._environment.install

    @contextmanager
    def run(self, upstream: Upstream) -> Iterator[Serving]:
        """With one virtual key."""
        with tempfile.TemporaryDirectory(prefix="sg-") as name:
            port, folder = free_port(), Path(name)
            config = folder / "rolter.toml"
            config.write_text(_CONFIG.format(port=port, upstream=upstream.url, model=MODEL, key=_KEY))
            environment = {"RUST_LOG": "error", "ROLTER_UPDATE_CHECK": "false"}
            command: Command = [self._environment.bin / "rolter", "gateway", "-c", config]
            with started(command, folder, port, environment) as pids:
                yield Serving(f"127.0.0.1:{port}", pids, headers={"Authorization": f"Bearer {_KEY}"})
