import pytest

from core.errors import ConfigError
from routing.model import Endpoint, ModelRole, OnAbort
from routing.routes_file import default_routes_text, load_routes, prices_in
from telemetry.prices import PriceBook, default_prices_text, load_prices

DATABRICKS = {"DATABRICKS_BASE_URL": "https://adb-1.net/serving-endpoints/", "DATABRICKS_API_KEY": " pat\n"}
ONE = """
endpoints:
  local: {kind: openai, base_url: "http://127.0.0.1:8000/v1/"}
models:
  - {name: small, endpoint: local, upstream_name: llama, aliases: [s], role: primary}
"""


def load(text: str, **environment: str):
    return load_routes(text, source="routes.yaml", environment=environment)


def refusal(text: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, **environment)
    assert caught.value.message.startswith("routes.yaml")
    return caught.value.message


def test_the_default_routes() -> None:
    routes = load_routes(default_routes_text(), source="x", environment=DATABRICKS)
    dbrx, mixtral = routes.find("dbrx"), routes.find("mixtral")
    assert routes.primary() is dbrx
    assert dbrx.upstream_name == "databricks-dbrx-instruct"
    assert routes.fallbacks(dbrx) == (mixtral,)
    assert mixtral.upstream_name == "databricks-mixtral-8x7b-instruct"
    assert routes.primary("embedding").name == "databricks-gte-large-en"
    assert routes.find("databricks-bge-large-en").kind == "embedding"
    for name in ("llama-3-3-70b", "llama-3-1-8b", "gpt-oss-20b"):
        assert routes.find(name).role is ModelRole.OTHER
    assert routes.endpoints["databricks"] == Endpoint(
        "databricks", "databricks", "https://adb-1.net", "pat", provider="Databricks"
    )
    assert prices_in(default_routes_text()) == []


def test_every_default_model_has_a_price() -> None:
    routes = load_routes(default_routes_text(), source="x", environment=DATABRICKS)
    book = PriceBook(load_prices(default_prices_text(), source="x"))
    for model in routes.models:
        book.price_at(model.name, 1_795_395_600_000)


def test_oauth_in_the_default_routes() -> None:
    environment = {"DATABRICKS_BASE_URL": "http://h", "DATABRICKS_CLIENT_ID": "i", "DATABRICKS_CLIENT_SECRET": "s"}
    made = load_routes(default_routes_text(), source="x", environment=environment).endpoints["databricks"]
    assert (made.api_key, made.client_id, made.client_secret) == (None, "i", "s")
    assert "pat" not in repr(made)


def test_a_file_of_ones_own() -> None:
    routes = load(ONE)
    assert routes.find("s").upstream_name == "llama"
    assert routes.endpoints["local"].base_url == "http://127.0.0.1:8000/v1"
    assert routes.endpoints["local"].api_key is None


@pytest.mark.parametrize(
    ("value", "environment", "url"),
    [
        ("${A}", {"A": "http://a"}, "http://a"),
        ("${A:-http://b}", {}, "http://b"),
        ("${A:-http://b}", {"A": ""}, "http://b"),
        ("http://${HOST}:${PORT:-80}/v1", {"HOST": "h"}, "http://h:80/v1"),
        ("http://$HOST", {}, "http://$HOST"),
    ],
)
def test_variables(value: str, environment: dict[str, str], url: str) -> None:
    assert load(ONE.replace("http://127.0.0.1:8000/v1/", value), **environment).endpoints["local"].base_url == url


def test_a_variable_that_is_missing_is_named() -> None:
    said = refusal(ONE.replace("http://127.0.0.1:8000/v1/", "${NOT_THERE}"))
    assert "endpoints.local.base_url" in said
    assert "NOT_THERE" in said


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("kind: openai", "kind: opnai", "endpoints.local.kind"),
        ("kind: openai", "kind: openai, timeout_s: 0", "endpoints.local.timeout_s"),
        ("kind: openai", "kind: openai, tiemout_s: 9", "endpoints.local.tiemout_s"),
        ("kind: openai", 'kind: openai, api_key: "a b"', "endpoints.local.api_key"),
        ("kind: openai", 'kind: openai, api_key: "${oops"', "endpoints.local.api_key"),
        ("kind: openai", "kind: anthropic", "api_key"),
        ("kind: openai", "kind: databricks", "client_id"),
        ("kind: openai", "kind: databricks, client_id: x", "client_secret"),
        ("http://127.0.0.1:8000/v1/", "127.0.0.1:8000", "endpoints.local.base_url"),
        ("http://127.0.0.1:8000/v1/", "ftp://x", "endpoints.local.base_url"),
        ("http://127.0.0.1:8000/v1/", "http://", "endpoints.local.base_url"),
        ("http://127.0.0.1:8000/v1/", "http://x:port", "endpoints.local.base_url"),
        ("http://127.0.0.1:8000/v1/", "http://u:p@x", "endpoints.local.base_url"),
        ("http://127.0.0.1:8000/v1/", "", "endpoints.local.base_url"),
        ("role: primary", "role: main", "models.0.role"),
        ("role: primary", "default_max_tokens: 0", "models.0.default_max_tokens"),
        ("role: primary", "default_max_tokens: 9000", "above max_output_tokens"),
        ("endpoint: local", "endpoint: lokal", "lokal"),
        ("aliases: [s]", "aliases: [small]", "two models are called small"),
        ("models:", "modles:", "models"),
    ],
)
def test_a_mistake_is_named(old: str, new: str, named: str) -> None:
    assert named in refusal(ONE.replace(old, new))


@pytest.mark.parametrize("text", ["", "[]", "endpoints: {}", "models: []", "x: [", "\x00"])
def test_a_file_that_is_none(text: str) -> None:
    refusal(text)


def test_a_key_that_is_there_twice_is_not_lost_silently() -> None:
    said = refusal(ONE.replace("models:", '  local: {kind: openai, base_url: "http://other"}\nmodels:'))
    assert "local is there twice (line 4)" in said


def test_a_mistake_next_to_a_credential_does_not_show_it() -> None:
    assert "hunter2" not in refusal('endpoints:\n  a: {kind: openai, api_key: "hunter2", base_url: [}\n')
    assert "hunter2" not in refusal(ONE.replace("kind: openai", 'kind: openai, api_key: ["hunter2"]'))


def test_prices_are_handed_on_unread() -> None:
    assert prices_in(ONE + "prices:\n  - {model: small, anything: [1]}\n") == [{"model": "small", "anything": [1]}]
    assert prices_in(ONE) == []
    with pytest.raises(ConfigError):
        prices_in(ONE + "prices: 7\n")


def test_what_becomes_of_a_call_whose_client_leaves() -> None:
    assert load(ONE).endpoints["local"].on_abort is OnAbort.ESTIMATE
    chosen = ONE.replace('v1/"}', 'v1/", on_abort: charge_hold}')
    assert load(chosen).endpoints["local"].on_abort is OnAbort.CHARGE_HOLD
    assert "endpoints.local.on_abort" in refusal(chosen.replace("charge_hold", "free"))
