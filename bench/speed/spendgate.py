"""Spendgate: `spendgate serve` with its embedded store, as it is by default. Its budgets can't be switched off."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from bench.speed.contestant import MAX_TOKENS, MODEL, Serving
from bench.speed.tools import Upstream
from tests.support.gateway import RunningGateway, running_gateway

_TEAM = "bench"
_CROWDS = (1, 10, 100)
_HUGE_USD = "1000000"
_ROUTES = f"""\
endpoints:
  upstream: {{kind: openai, base_url: "${{BENCH_UPSTREAM_URL}}/v1", api_key: none}}
models:
  - {{name: {MODEL}, endpoint: upstream, role: primary, template_tokens: 0,
     default_max_tokens: {MAX_TOKENS}, max_output_tokens: 4096}}
prices:
  - model: {MODEL}
    effective_from: 2026-01-01
    source: the benchmark
    usd_per_million_tokens: {{input: "0.50", output: "1.50"}}
"""


class Spendgate:
    """The product of this project."""

    def __init__(self, workers: int = 1) -> None:
        self.name = "Spendgate" if workers == 1 else f"Spendgate, {workers} workers"
        self.budgets = "on: reserved before, settled after"
        self._workers = workers

    def version(self) -> str:
        """Of the distribution."""
        return version("spendgate")

    def missing(self) -> str | None:
        """Never."""
        return None

    def install(self) -> None:
        """Nothing: it is here."""

    @contextmanager
    def run(self, upstream: Upstream) -> Iterator[Serving]:
        """Every agent of a crowd has a budget of its own, and the team's above it; all of them out of reach."""
        with tempfile.TemporaryDirectory(prefix="sg-") as folder:
            routes = Path(folder) / "routes.yaml"
            routes.write_text(_ROUTES)
            settings = {
                "DATABRICKS_BASE_URL": upstream.url,  # so that no simulator is started
                "DATABRICKS_API_KEY": "none",
                "BENCH_UPSTREAM_URL": upstream.url,
                "SPENDGATE_ROUTES": str(routes),
                "SPENDGATE_WORKERS": str(self._workers),
            }
            extra = os.environ.get("BENCH_SPENDGATE_ENV", "")
            settings |= dict(pair.split("=", 1) for pair in extra.split() if "=" in pair)
            with running_gateway(Path(folder), **settings) as gateway:
                yield _serving(gateway, self._workers)


def _serving(gateway: RunningGateway, workers: int) -> Serving:
    names = [f"bench-{number}" for number in range(max(_CROWDS))]
    for name in names:
        gateway.put_budget(scopeType="agent", scopeKey=name, limitUsd=_HUGE_USD, hardCap=1, cadence="daily")
    gateway.put_budget(scopeType="team", scopeKey=_TEAM, limitUsd=_HUGE_USD, hardCap=1, cadence="daily")
    crowds = {
        f"{size} agent{'s' * (size > 1)} and a team": [
            {"X-Budget-Scopes": f"agent:{name}, team:{_TEAM}"} for name in names[:size]
        ]
        for size in _CROWDS
    }
    return Serving(
        gateway.url.removeprefix("http://"),
        gateway.worker_pids(),
        [gateway.store_pid()] if "REDIS_URL" not in gateway.environment else [],
        headers={"Authorization": f"Bearer {gateway.agent_key}", "X-Budget-Scopes": f"agent:{names[0]}"},
        callers=crowds if workers == 1 else {},
        spread=workers > 1,
    )
