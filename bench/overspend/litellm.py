"""LiteLLM's proxy under the experiment, from an environment of its own, with its strictest budget that runs anywhere.

The caller's key has `max_budget`. Budget reservation is on, as it is by default; `fail_closed_budget_enforcement`
refuses what can't be verified; spend counters are in a Redis. There is no database, because Prisma's engine is
downloaded apart from the package. So the key comes from a custom auth handler, with both flags that its documentation
asks for (docs.litellm.ai/docs/proxy/custom_auth, "What gets enforced"), and LiteLLM's own cost tracker, which it
installs only beside a database, is named in the configuration: without it no reservation is ever trued up. What was
spent is read from the counter that its own checks read.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import redis

from bench.overspend.product import Recorded
from bench.overspend.upstream import INPUT_USD, OUTPUT_USD, PRICED_MODEL, UNPRICED_MODEL
from bench.overspend.variants import FULL_LENGTH_TOKENS, Harm, Variant
from core.money import format_usd
from tests.support.stores import RunningServer, running_redis

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".bench" / "litellm-env"
_BIN = ENVIRONMENT / "bin"
_START_S = 120.0
_QUIET_S = 4.0
_LOOK_EVERY_S = 0.2
_MOST_LOOKS = 200
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")
_KEY = "sk-bench"
_PER_TOKEN = Decimal("0.000001")

_AUTH = """\
import os

from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.hooks.proxy_track_cost_callback import _ProxyDBLogger

tracker = _ProxyDBLogger()


async def check(request, api_key):
    return UserAPIKeyAuth(api_key=api_key, max_budget=float(os.environ["BENCH_CAP_USD"]))
"""


def install() -> None:
    """Make the environment."""
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    pip = [str(_BIN / "python"), "-m", "pip", "-q", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "litellm[proxy]"], check=True)


class LiteLLMTarget:
    """A running proxy. It is started again with the same command after it was killed."""

    def __init__(self, folder: Path, store: RunningServer, cap_nano: int, workers: int) -> None:
        self._folder = folder
        self._log = folder / "log.txt"
        self._store = store
        self._port = _free_port()
        self._workers = workers
        inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self._environment = inherited | {"BENCH_CAP_USD": format_usd(cap_nano), "LITELLM_LOG": "ERROR"}
        self._counters = redis.Redis(port=store.port, decode_responses=True)
        self.chat_url = f"http://127.0.0.1:{self._port}/v1/chat/completions"
        self.headers = {"Authorization": f"Bearer {_KEY}"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it serves.

        Raises:
            AssertionError: it did not; holds its log.
        """
        command = [str(_BIN / "litellm"), "--config", str(self._folder / "config.yaml"), "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--num_workers", str(self._workers)]
        if self._workers > 1:  # on a busy machine its workers start too slowly for uvicorn's five seconds
            command += ["--timeout_worker_healthcheck", "60"]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        self._process = process
        until_s = time.monotonic() + _START_S
        while not self._is_ready():
            assert process.poll() is None and time.monotonic() < until_s, f"not ready: {self._log.read_text()}"
            time.sleep(_LOOK_EVERY_S)

    def pids(self) -> list[int]:
        """The proxy's process, then the Redis's."""
        assert self._process is not None
        return [self._process.pid, self._store.process.pid]

    def harm(self, kind: Harm) -> None:
        """Stop the Redis, or kill the proxy with its workers."""
        if kind == "store":
            self._store.process.send_signal(signal.SIGSTOP)
        else:
            self.kill()

    def mend(self, kind: Harm) -> None:
        """Let the Redis go on, or start the proxy again."""
        if kind == "store":
            self._store.process.send_signal(signal.SIGCONT)
        else:
            self.start()

    def wait_settled(self) -> None:
        """Return when the counter has not changed for some seconds."""
        before, since_s = self.recorded().nano, time.monotonic()
        for _ in range(_MOST_LOOKS):
            time.sleep(_LOOK_EVERY_S)
            now = self.recorded().nano
            if now != before:
                before, since_s = now, time.monotonic()
            if time.monotonic() - since_s > _QUIET_S:
                return

    def recorded(self) -> Recorded:
        """The key's spend counter, without windows."""
        names = [name for name in self._counters.scan_iter("*spend:key:*") if ":window:" not in name]
        values = [value for name in names if isinstance(value := self._counters.get(name), str)]
        return Recorded(sum(round(Decimal(json.loads(value)) * 10**9) for value in values))

    def kill(self) -> None:
        """Kill -9 the proxy and its workers."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health/liveliness", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


class LiteLLM:
    """LiteLLM's proxy server."""

    name = "LiteLLM"

    def version(self) -> str:
        """Of the package in its environment."""
        code = "from importlib.metadata import version; print(version('litellm'))"
        done = subprocess.run([str(_BIN / "python"), "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def missing(self) -> str | None:
        """Its environment has to be made first."""
        return None if (_BIN / "litellm").exists() else "not installed: make bench-litellm-env, or --install-litellm"

    @contextmanager
    def run(self, upstream_url: str, variant: Variant, cap_nano: int) -> Iterator[LiteLLMTarget]:
        """A proxy whose only key has this budget."""
        with tempfile.TemporaryDirectory() as name, running_redis({"appendonly": "yes"}) as store:
            folder = Path(name)
            (folder / "bench_auth.py").write_text(_AUTH)
            (folder / "config.yaml").write_text(json.dumps(_config(upstream_url, store.port)))
            target = LiteLLMTarget(folder, store, cap_nano, variant.workers)
            try:
                target.start()
                yield target
            finally:
                target.kill()


def _config(upstream_url: str, redis_port: int) -> dict[str, object]:
    """JSON is YAML."""
    prices = {
        "input_cost_per_token": float(Decimal(INPUT_USD) * _PER_TOKEN),
        "output_cost_per_token": float(Decimal(OUTPUT_USD) * _PER_TOKEN),
    }
    upstream = {"api_base": f"{upstream_url}/serving-endpoints", "api_key": "simulated"}
    length = {"max_tokens": FULL_LENGTH_TOKENS, "max_output_tokens": FULL_LENGTH_TOKENS}
    return {
        "model_list": [
            {
                "model_name": model,
                "litellm_params": {"model": f"openai/{model}", **upstream, **price},
                "model_info": length,
            }
            for model, price in ((PRICED_MODEL, prices), (UNPRICED_MODEL, {}))
        ],
        "general_settings": {
            "master_key": f"sk-{secrets.token_hex(32)}",
            "custom_auth": "bench_auth.check",
            "custom_auth_run_common_checks": True,
            "fail_closed_budget_enforcement": True,
            "coordination_redis": {"host": "127.0.0.1", "port": redis_port},
        },
        "litellm_settings": {"enable_post_custom_auth_checks": True, "callbacks": ["bench_auth.tracker"]},
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
