import subprocess
import sys
from typing import Any

import pytest

from core.errors import ConfigError
from routing.adapters import registry
from routing.adapters.anthropic import Anthropic
from routing.adapters.databricks import Databricks
from routing.adapters.litellm_sdk import LiteLLM
from routing.adapters.openai_compatible import OpenAICompatible
from routing.adapters.registry import Upstreams
from routing.model import Endpoint, Model, Routes
from tests.routing.servers import ANSWER, FakeClock, Request, call, serving


def routes(*kinds: Any, url: str = "http://x") -> Routes:
    endpoints = [Endpoint(kind, kind, url, api_key="k" * 12) for kind in kinds]
    models = [Model(f"{e.name}-{n}", e.name, "up") for e in endpoints for n in (1, 2)]
    return Routes(models, endpoints)


async def test_an_adapter_for_each_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: name)
    config = routes("databricks", "openai", "anthropic", "litellm")
    upstreams = Upstreams(config, FakeClock())
    found = {m.name: upstreams.for_model(m) for m in config.models}
    kinds = {"databricks": Databricks, "openai": OpenAICompatible, "anthropic": Anthropic, "litellm": LiteLLM}
    for kind, adapter in kinds.items():
        assert type(found[f"{kind}-1"]) is adapter
        assert found[f"{kind}-1"] is found[f"{kind}-2"]
    await upstreams.close()


async def test_closing_closes_connections() -> None:
    async def handler(request: Request) -> None:
        await request.answer(ANSWER)
        await request.gone()

    async with serving(handler) as server:
        config = routes("openai", url=server.url)
        upstreams = Upstreams(config, FakeClock())
        await upstreams.for_model(config.models[0]).send(call())
        await upstreams.close()
        await upstreams.close()
        assert (await upstreams.for_model(config.models[0]).send(call())).body == ANSWER  # usable again
        await upstreams.close()
    assert server.connections == 2


def test_a_missing_sdk_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    Upstreams(routes("openai"), FakeClock())
    with pytest.raises(ConfigError, match="pip install"):
        Upstreams(routes("litellm"), FakeClock())


def test_the_sdk_is_not_loaded_before_it_is_needed() -> None:
    code = "import sys, routing.adapters.registry, routing.adapters.litellm_sdk; sys.exit('litellm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
