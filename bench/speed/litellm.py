"""LiteLLM's proxy: one worker, a master key, no database, no Redis, no callbacks.

Beside it are OpenTelemetry's SDK, which it otherwise tries in vain to import in every call, and a faster HTTP parser.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.overspend import litellm as overspend
from bench.overspend.upstream import PRICED_MODEL
from bench.overspend.variants import VARIANTS
from bench.speed.contestant import MODEL, Serving
from bench.speed.peer import Command, PythonEnvironment, started
from bench.speed.tools import Upstream
from tests.support.stores import free_port

_KEY = "sk-bench"
_CAP_NANO = 10**15
_BESIDE = ("opentelemetry-sdk", "httptools")
_ENVIRONMENT = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


class LiteLLM:
    """LiteLLM's proxy server."""

    name = "LiteLLM"
    budgets = "off"

    def __init__(self) -> None:
        self._environment = PythonEnvironment("litellm", "litellm[proxy]==1.106.2", _BESIDE)
        self.version = self._environment.version
        self.missing = self._environment.missing
        self.install = self._environment.install

    @contextmanager
    def run(self, upstream: Upstream) -> Iterator[Serving]:
        """The upstream's model is one that it knows the price of: prices of one's own cost it more."""
        with tempfile.TemporaryDirectory(prefix="sg-") as name:
            port, folder = free_port(), Path(name)
            (folder / "config.yaml").write_text(json.dumps(_config(upstream.url)))  # JSON is YAML
            command: Command = [
                self._environment.bin / "litellm",
                "--config",
                folder / "config.yaml",
                "--host",
                "127.0.0.1",
            ]
            command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
            with started(command, folder, port, _ENVIRONMENT) as pids:
                yield Serving(f"127.0.0.1:{port}", pids, headers={"Authorization": f"Bearer {_KEY}"})


def _config(upstream_url: str) -> dict[str, object]:
    parameters = {"model": "openai/gpt-4o-mini", "api_base": f"{upstream_url}/v1", "api_key": "none"}
    return {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": _KEY},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }


class LiteLLMWithBudget(LiteLLM):
    """With a key's budget far out of reach, set up as in the experiment on overspending."""

    name = "LiteLLM, budget"
    budgets = "on: reserved before, settled after"

    @contextmanager
    def run(self, upstream: Upstream) -> Iterator[Serving]:
        """Its spend counters are in a Redis; its database is left out."""
        plain = next(variant for variant in VARIANTS if variant.name == "plain")
        with overspend.LiteLLM().run(upstream.url, plain, _CAP_NANO) as target:
            proxy, store = target.pids()
            address = target.chat_url.removeprefix("http://").split("/")[0]
            yield Serving(address, [proxy], [store], model=PRICED_MODEL, headers=target.headers)
