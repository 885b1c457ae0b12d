"""Ferro Labs' AI Gateway (Go), alone and with its budget plugin: a soft cap for each key, in memory."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.speed.contestant import Serving
from bench.speed.peer import PythonEnvironment, started
from bench.speed.tools import Upstream
from tests.support.stores import free_port

_MODEL = "gpt-4o"  # it passes on only models of its catalog
_KEY = "fgw_bench"
_BUDGET = {"spend_limit_usd": 1_000_000, "input_per_m_tokens": 0.5, "output_per_m_tokens": 1.5}


class Ferrogw:
    """ferrogw serve."""

    def __init__(self, *, with_budget: bool = False) -> None:
        self.name = "ferrogw, budget" if with_budget else "ferrogw"
        self.budgets = "read before, added after; in memory" if with_budget else "off"
        self._with_budget = with_budget
        self._environment = PythonEnvironment("ferrogw", "ferrogw==1.5.10")
        self.version = self._environment.version
        self.missing = self._environment.missing
        self.install = self._environment.install

    @contextmanager
    def run(self, upstream: Upstream) -> Iterator[Serving]:
        """One target, without retries."""
        with tempfile.TemporaryDirectory(prefix="sg-") as name:
            port, folder = free_port(), Path(name)
            (folder / "config.yaml").write_text(json.dumps(self._config()))  # JSON is YAML
            environment = {
                "PORT": str(port),
                "GATEWAY_CONFIG": "config.yaml",
                "MASTER_KEY": _KEY,
                "OPENAI_API_KEY": "none",
                "OPENAI_BASE_URL": f"{upstream.url}/v1",
                "LOG_LEVEL": "error",
                "RATE_LIMIT_RPS": "1000000000",
                "RATE_LIMIT_BURST": "1000000000",
                "FERRO_MODEL_CATALOG_TIMEOUT": "0",
            }
            with started([self._environment.bin / "ferrogw", "serve"], folder, port, environment) as pids:
                yield Serving(f"127.0.0.1:{port}", pids, model=_MODEL, headers={"Authorization": f"Bearer {_KEY}"})

    def _config(self) -> dict[str, object]:
        plugin = {"name": "budget", "type": "ratelimit", "enabled": True, "config": _BUDGET}
        stages = ("before_request", "after_request") if self._with_budget else ()
        return {
            "strategy": {"mode": "single"},
            "targets": [{"virtual_key": "openai"}],
            "plugins": [plugin | {"stage": stage} for stage in stages],
        }
