"""The vendors' own SDKs against the simulator: if they work here as they do there, its shapes are right."""

from typing import Any

import openai
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound, PermissionDenied
from databricks.sdk.service.serving import ChatMessage, ChatMessageRole

from tests.support.simulated import Simulated, running_simulator

DBRX = "databricks-dbrx-instruct"
GTE = "databricks-gte-large-en"
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "parameters": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
        },
    }
]
ASK: list[Any] = [{"role": "user", "content": "What is a budget?"}]


@pytest.fixture
def client(sim: Simulated) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{sim.base_url}/serving-endpoints", api_key="t", max_retries=0)


def tokens(sim: Simulated, model: str = DBRX) -> tuple[int, int]:
    total = sim.bill()["models"][model]
    return total["prompt_tokens"], total["completion_tokens"]


def test_openai_chat(sim: Simulated, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=DBRX, messages=ASK, max_tokens=20)
    assert answer.usage is not None and answer.choices[0].finish_reason == "length"
    assert "What is a budget?" in (answer.choices[0].message.content or "")
    assert tokens(sim) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)


def test_openai_stream(sim: Simulated, client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=DBRX, messages=ASK).choices[0].message.content
    sim.reset()
    chunks = list(
        client.chat.completions.create(model=DBRX, messages=ASK, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    usage = chunks[-1].usage
    assert usage is not None and tokens(sim) == (usage.prompt_tokens, usage.completion_tokens)


def test_openai_tools(client: openai.OpenAI) -> None:
    call = client.chat.completions.create(model=DBRX, messages=ASK, tools=TOOLS).choices[0]
    assert call.finish_reason == "tool_calls" and call.message.tool_calls
    first = call.message.tool_calls[0]
    assert first.type == "function" and first.function.arguments == '{"id":1}'
    with client.chat.completions.stream(model=DBRX, messages=ASK, tools=TOOLS) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.message.role == "assistant" and final.message.tool_calls
    assert final.message.tool_calls[0].function.arguments == '{"id":1}'


def test_openai_embeddings(sim: Simulated, client: openai.OpenAI) -> None:
    plain = client.embeddings.create(model=GTE, input=["a", "b"], encoding_format="float")
    packed = client.embeddings.create(model=GTE, input=["a", "b"])
    assert len(plain.data) == 2 and len(plain.data[0].embedding) == 1024
    assert packed.data[1].embedding[:3] == pytest.approx(plain.data[1].embedding[:3], abs=1e-6)
    assert tokens(sim, GTE) == (2 * plain.usage.prompt_tokens, 0)


def test_openai_errors(sim: Simulated, client: openai.OpenAI) -> None:
    for fault, error in [
        ("rate_limit", openai.RateLimitError),
        ("unauthorized", openai.AuthenticationError),
        ("unavailable", openai.InternalServerError),
        ("not_found", openai.NotFoundError),
    ]:
        sim.set_fault(DBRX, fault=fault, times=1)
        with pytest.raises(error):
            client.chat.completions.create(model=DBRX, messages=ASK)


def test_databricks_query(sim: Simulated) -> None:
    workspace = WorkspaceClient(host=sim.base_url, token="t")
    message = ChatMessage(role=ChatMessageRole.USER, content="What is a budget?")
    answer = workspace.serving_endpoints.query(
        DBRX, messages=[message], max_tokens=20, client_request_id="hld_7", usage_context={"team": "a"}
    )
    assert answer.usage is not None and answer.usage.completion_tokens == 20
    assert tokens(sim) == (answer.usage.prompt_tokens, 20)
    record = sim.bill(recent=1)["client_request_ids"][0]
    assert (record["client_request_id"], record["usage_context"]) == ("hld_7", {"team": "a"})
    assert DBRX in [endpoint.name for endpoint in workspace.serving_endpoints.list()]
    state = workspace.serving_endpoints.get(GTE).state
    assert state is not None and state.ready is not None and state.ready.value == "READY"


def test_databricks_errors(sim: Simulated) -> None:
    workspace = WorkspaceClient(host=sim.base_url, token="t")
    message = ChatMessage(role=ChatMessageRole.USER, content="Hi")
    with pytest.raises(NotFound):
        workspace.serving_endpoints.query("databricks-nothing", messages=[message])
    sim.set_fault(DBRX, fault="forbidden")
    with pytest.raises(PermissionDenied):
        workspace.serving_endpoints.query(DBRX, messages=[message])


def test_databricks_oauth() -> None:
    with running_simulator(access_tokens=["pat"], client_id="id", client_secret="secret") as own:
        workspace = WorkspaceClient(host=own.base_url, client_id="id", client_secret="secret")
        message = ChatMessage(role=ChatMessageRole.USER, content="Hi")
        assert workspace.serving_endpoints.query(DBRX, messages=[message]).usage is not None
