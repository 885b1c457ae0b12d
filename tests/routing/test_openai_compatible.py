import logging

import orjson
import pytest

from core.ids import id_to_uuid
from routing.adapters.openai_compatible import OpenAICompatible
from routing.errors import FailureKind, UpstreamError
from routing.upstream import UpstreamCall
from tests.routing.servers import ANSWER, ATTEMPT, FakeClock, Request, call, endpoint, serving
from tests.support.streams import payloads_of


async def answers(request: Request) -> None:
    await request.answer(ANSWER)


async def sent_for(asked: UpstreamCall, path: str = "/v1", **changes: object) -> Request:
    async with serving(answers) as server:
        adapter = OpenAICompatible(endpoint(server.url + path, **changes), FakeClock())
        answer = await adapter.send(asked)
        await adapter.close()
    assert answer.body == ANSWER
    assert orjson.loads(answer.raw) == ANSWER
    return server.requests[0]


@pytest.mark.parametrize(("operation", "path"), [("chat", "/v1/chat/completions"), ("embeddings", "/v1/embeddings")])
@pytest.mark.parametrize("base", ["/v1", "/v1/"])
async def test_a_call(operation: str, path: str, base: str) -> None:
    sent = await sent_for(call({"input": "x", "model": "forged", "stream": True}, operation=operation), base)
    assert sent.path == path
    assert sent.json == {"model": "up/stream", "input": "x"}
    assert sent.headers["authorization"] == "Bearer key-0123456789"
    assert sent.headers["x-client-request-id"] == ATTEMPT
    assert "cookie" not in sent.headers


@pytest.mark.parametrize("attempt_id", [ATTEMPT, ATTEMPT.upper(), "x-1_" + "0" * 32])
async def test_ids_that_are_written_otherwise(attempt_id: str) -> None:
    sent = await sent_for(call(attempt_id=attempt_id))
    assert sent.headers["x-client-request-id"] == attempt_id
    assert sent.headers["helicone-request-id"] == id_to_uuid(attempt_id)


async def test_an_id_that_would_leave_its_line_is_not_sent() -> None:
    with pytest.raises(UpstreamError) as caught:
        await sent_for(call(attempt_id="x\r\nEvil: 1_" + "0" * 32))
    assert caught.value.kind is FailureKind.NOT_SENT


async def test_a_server_without_a_key() -> None:
    assert "authorization" not in (await sent_for(call(), api_key=None)).headers


async def test_usage_is_asked_for_until_the_server_refuses() -> None:
    async def handler(request: Request) -> None:
        if "stream_options" in request.json:
            await request.answer({"error": {"message": "Unrecognized request argument: include_usage"}}, 400)
            return
        await request.begin_stream()
        await request.end_stream()

    async with serving(handler) as server:
        adapter = OpenAICompatible(endpoint(server.url), FakeClock())
        for _ in range(2):
            stream = await adapter.open_stream(call())
            assert [p async for p in payloads_of(stream)] == []
            await stream.close()
        await adapter.close()
    assert ["stream_options" in r.json for r in server.requests] == [True, False, False]


async def test_nothing_of_a_call_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> None:
        await request.answer({"error": {"message": "no"}}, 500)

    caplog.set_level(logging.DEBUG)
    async with serving(handler) as server:
        adapter = OpenAICompatible(endpoint(server.url), FakeClock())
        with pytest.raises(UpstreamError) as caught:
            await adapter.send(call({"messages": [{"role": "user", "content": "my secret prompt"}]}))
        await adapter.close()
    assert caught.value.kind is FailureKind.UNAVAILABLE
    assert "secret prompt" not in caplog.text + repr(caught.value)
    assert "key-0123456789" not in caplog.text + repr(caught.value)
