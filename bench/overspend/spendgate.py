"""Spendgate under the experiment: real `spendgate serve` processes with the embedded store."""

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from bench.overspend.product import Recorded
from bench.overspend.upstream import INPUT_USD, OUTPUT_USD, PRICED_MODEL, UNPRICED_MODEL
from bench.overspend.variants import FULL_LENGTH_TOKENS, Harm, Variant
from core.money import format_usd
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.invariants import Events, assert_books_are_right

_AGENT = "bench"
_LEASE_S = 2
_PATIENCE_S = 40.0
_LOOK_EVERY_S = 0.05

# The simulated models have no chat template beyond the marks around a message, which are bounded anyway.
_ROUTES = f"""\
endpoints:
  upstream: {{kind: databricks, base_url: "${{DATABRICKS_BASE_URL}}", api_key: "${{DATABRICKS_API_KEY}}"}}
models:
  - {{name: {PRICED_MODEL}, endpoint: upstream, role: primary, template_tokens: 0,
     default_max_tokens: {FULL_LENGTH_TOKENS}, max_output_tokens: 4096}}
  - {{name: {UNPRICED_MODEL}, endpoint: upstream, max_output_tokens: 4096}}
prices:
  - model: {PRICED_MODEL}
    effective_from: 2026-01-01
    source: the benchmark
    usd_per_million_tokens: {{input: "{INPUT_USD}", output: "{OUTPUT_USD}"}}
"""


class SpendgateTarget:
    """A running gateway with one budget."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._gateway = gateway
        self.chat_url = f"{gateway.url}/v1/chat/completions"
        self.headers = {"Authorization": f"Bearer {gateway.agent_key}", "X-Budget-Scopes": f"agent:{_AGENT}"}

    def harm(self, kind: Harm) -> None:
        """Stop the store, or kill every worker."""
        if kind == "store":
            os.kill(self._store_pid(), signal.SIGSTOP)
        else:
            for pid in self._gateway.worker_pids():
                os.kill(pid, signal.SIGKILL)

    def mend(self, kind: Harm) -> None:
        """Let the store go on; workers are started again by their supervisor."""
        if kind == "store":
            os.kill(self._store_pid(), signal.SIGCONT)
        _wait(self._is_ready, "the gateway serves again")

    def wait_settled(self) -> None:
        """Return when nothing is held: settled, or charged because the lease ran out."""
        _wait(lambda: self._gateway.spend(_AGENT)["held"] == 0, "no hold is left")

    def recorded(self) -> Recorded:
        """The events of money; the balances are checked against them."""
        return _sum_up(assert_books_are_right(self._gateway))

    def _store_pid(self) -> int:
        folder = Path(self._gateway.environment["SPENDGATE_DATA_DIR"]) / "valkey"
        pid: int = json.loads((folder / "server.json").read_text())["pid"]
        return pid

    def _is_ready(self) -> bool:
        try:
            return self._gateway.request("GET", "/readyz", key=None).status == 200
        except OSError:
            return False


class Spendgate:
    """The product of this project."""

    name = "Spendgate"

    def version(self) -> str:
        """Of the distribution."""
        return version("spendgate")

    def missing(self) -> str | None:
        """Never."""
        return None

    @contextmanager
    def run(self, upstream_url: str, variant: Variant, cap_nano: int) -> Iterator[SpendgateTarget]:
        """A gateway whose budget refuses at the cap: no downgrade, no shorter answer, no allowance above the limit."""
        with tempfile.TemporaryDirectory() as folder:
            routes = Path(folder) / "routes.yaml"
            routes.write_text(_ROUTES)
            settings = {
                "DATABRICKS_BASE_URL": upstream_url,
                "DATABRICKS_API_KEY": "simulated",
                "SPENDGATE_ROUTES": str(routes),
                "SPENDGATE_WORKERS": str(variant.workers),
                "SPENDGATE_LEASE_S": str(_LEASE_S),
                "SPENDGATE_LOG_LEVEL": "error",
            }
            with running_gateway(Path(folder), **settings) as gateway:
                gateway.put_budget(
                    scopeType="agent",
                    scopeKey=_AGENT,
                    limitUsd=format_usd(cap_nano),
                    hardCap=1,
                    cadence="total",
                    allowDowngrade=False,
                    allowSmallerMaxTokens=False,
                )
                yield SpendgateTarget(gateway)


def _sum_up(events: Events) -> Recorded:
    """Each hold under the basis of its last event: a late settlement corrects what an expiry posted."""
    nano_by_hold: dict[str, int] = {}
    basis_by_hold: dict[str, str] = {}
    for event in events:
        if "delta_nano" in event:
            hold = event["hold"]
            nano_by_hold[hold] = nano_by_hold.get(hold, 0) + int(event["delta_nano"])
            basis_by_hold[hold] = event["basis"]
    by_basis: dict[str, int] = {}
    for hold, nano in nano_by_hold.items():
        by_basis[basis_by_hold[hold]] = by_basis.get(basis_by_hold[hold], 0) + nano
    exact = {hold: nano for hold, nano in nano_by_hold.items() if basis_by_hold[hold] == "exact" and nano}
    return Recorded(sum(nano_by_hold.values()), by_basis, exact)


def _wait(true: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, f"in vain: {what}"
        time.sleep(_LOOK_EVERY_S)
