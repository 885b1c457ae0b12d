"""The official SDKs work by changing base URL and key alone."""

from collections.abc import Iterator

import openai
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import ChatMessage, ChatMessageRole
from openai import AsyncOpenAI, OpenAI

from tests.support.gateway import RunningGateway
from tests.support.simulated import Simulated

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.agent_key) as made:
        yield made


def test_a_chat_answer_and_its_headers(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="dbrx", messages=HELLO, max_tokens=20)
    answer = raw.parse()
    assert answer.choices[0].message.content and answer.usage.completion_tokens == 20
    cost_nano = answer.usage.prompt_tokens * 750 + 20 * 2250
    assert raw.headers["x-cost-usd"] == f"{cost_nano / 1e9:.9f}".rstrip("0")
    assert raw.headers["x-model-requested"] == "dbrx"
    assert raw.headers["x-model-served"] == "databricks-dbrx-instruct"
    assert raw.headers["x-budget-state"] == "Active"
    assert raw.headers["x-budget-scope"] == "agent:quickstart"
    for name in ("x-budget-remaining", "x-budget-held", "x-budget-limit", "x-budget-reset", "x-overhead-ms"):
        assert raw.headers[name]
    assert raw.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("include", [None, {"include_usage": True}, {"include_usage": False}])
def test_a_stream_shows_usage_only_to_who_asked(client: OpenAI, include) -> None:
    extra = {} if include is None else {"stream_options": include}
    chunks = list(client.chat.completions.create(model="dbrx", messages=HELLO, max_tokens=16, stream=True, **extra))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.startswith("You asked")
    usages = [c.usage for c in chunks if c.usage]
    assert [u.completion_tokens for u in usages] == ([16] if include and include["include_usage"] else [])
    assert all(c.choices for c in chunks) or include == {"include_usage": True}


async def test_the_async_client(gateway: RunningGateway) -> None:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.agent_key) as client:
        answer = await client.chat.completions.create(model="mixtral", messages=HELLO, max_tokens=5)
        assert answer.usage.completion_tokens == 5
        stream = await client.chat.completions.create(model="mixtral", messages=HELLO, max_tokens=5, stream=True)
        assert [c async for c in stream]


def test_tools_there_and_back(client: OpenAI) -> None:
    asked = client.chat.completions.create(model="dbrx", messages=HELLO, tools=[WEATHER])
    call = asked.choices[0].message.tool_calls[0]
    assert call.function.name == "weather" and "city" in call.function.arguments
    told = [*HELLO, asked.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    answered = client.chat.completions.create(model="dbrx", messages=told, tools=[WEATHER], max_tokens=30)
    assert answered.choices[0].message.content
    streamed = client.chat.completions.create(model="dbrx", messages=HELLO, tools=[WEATHER], stream=True)
    deltas = [c.choices[0].delta.tool_calls for c in streamed if c.choices]
    assert any(d and d[0].function and d[0].function.name == "weather" for d in deltas)


def test_embeddings_and_models(client: OpenAI) -> None:
    made = client.embeddings.create(model="databricks-gte-large-en", input=["one", "two"])
    assert len(made.data) == 2 and made.usage.prompt_tokens > 0
    names = [m.id for m in client.models.list()]
    assert "databricks-dbrx-instruct" in names and "databricks-gte-large-en" in names


def test_errors_are_the_sdks_own(client: OpenAI, gateway: RunningGateway) -> None:
    with pytest.raises(openai.NotFoundError, match="nope"):
        client.chat.completions.create(model="nope", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="best_of"):
        client.chat.completions.create(model="dbrx", messages=HELLO, extra_body={"best_of": 2})
    with pytest.raises(openai.AuthenticationError), OpenAI(base_url=f"{gateway.url}/v1", api_key="nobody") as other:
        other.chat.completions.create(model="dbrx", messages=HELLO)


def test_a_refusal_is_not_retried(client: OpenAI, gateway: RunningGateway, simulator: Simulated) -> None:
    gateway.put_budget(scopeType="agent", scopeKey="broke", limitUsd="0.000001")
    calls = simulator.bill()["calls"]
    refusals = gateway_refusals(gateway)
    with pytest.raises(openai.APIStatusError) as raised:
        client.with_options(max_retries=3).chat.completions.create(
            model="dbrx", messages=HELLO, extra_headers={"X-Budget-Scopes": "agent:broke"}
        )
    assert raised.value.status_code == 402
    error = raised.value.response.json()["error"]
    assert (error["type"], error["scope"]) == ("budget_exceeded", "agent:broke")
    assert gateway_refusals(gateway) == refusals + 1
    assert simulator.bill()["calls"] == calls


def gateway_refusals(gateway: RunningGateway) -> int:
    return gateway.log.read_text().count("402 budget")


def test_databricks_own_sdk(gateway: RunningGateway) -> None:
    workspace = WorkspaceClient(host=gateway.url, token=gateway.agent_key)
    message = ChatMessage(role=ChatMessageRole.USER, content="hi")
    answer = workspace.serving_endpoints.query(name="databricks-dbrx-instruct", messages=[message], max_tokens=12)
    assert answer.choices[0].message.content and answer.usage.completion_tokens == 12
    with OpenAI(base_url=f"{gateway.url}/serving-endpoints", api_key=gateway.agent_key) as client:
        same = client.chat.completions.create(model="databricks-dbrx-instruct", messages=HELLO, max_tokens=5)
        assert same.usage.completion_tokens == 5
