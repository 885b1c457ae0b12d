"""Idempotency-Key on a real gateway: a client that asks again is not charged again."""

import concurrent.futures

from tests.support.gateway import Answer, RunningGateway


def ask(gateway: RunningGateway, key: str, agent: str, prompt: str = "Hello", **fields: object) -> Answer:
    body = {"prompt": prompt, "scopeType": "agent", "scopeKey": agent, "maxTokens": 20} | fields
    return gateway.request("POST", "/agent/chat", body, headers={"Idempotency-Key": key})


def calls(simulator) -> int:
    return simulator.bill()["calls"]


def test_the_same_request_gives_the_same_answer_and_one_charge(gateway, simulator):
    before = calls(simulator)
    first, second = ask(gateway, "one", "same"), ask(gateway, "one", "same")
    assert first.status == second.status == 200
    assert second.body == first.body
    assert second.headers["idempotency-replayed"] == "true" and "idempotency-replayed" not in first.headers
    assert second.headers["x-request-id"] == first.headers["x-request-id"]
    assert calls(simulator) == before + 1
    assert gateway.spend("same")["spent"] == first.json["cost"]


def test_another_request_under_the_key_is_refused(gateway):
    assert ask(gateway, "two", "other").status == 200
    again = ask(gateway, "two", "other", prompt="Something else")
    assert (again.status, again.json["error"]["code"]) == (422, "idempotency_key_reused")
    elsewhere = ask(gateway, "two", "another-agent")
    assert elsewhere.status == 422, "who pays is part of the request"


def test_a_stream_is_replayed_as_it_was(gateway, simulator):
    before = calls(simulator)
    first, second = (ask(gateway, "three", "stream", stream=True) for _ in range(2))
    assert first.status == 200 and b'"done":true' in first.body
    assert second.body == first.body
    assert calls(simulator) == before + 1


def test_while_it_runs_the_answer_is_409_and_the_upstream_is_called_once(gateway, simulator):
    simulator.set_fault("databricks-dbrx-instruct", fault="slow", delay_ms=1500)
    before = calls(simulator)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask(gateway, "four", "race"), range(8)))
    finally:
        simulator.clear_faults()
    statuses = sorted(a.status for a in answers)
    assert statuses == [200] + [409] * 7
    running = next(a for a in answers if a.status == 409)
    assert running.json["error"]["code"] == "idempotency_running" and running.headers["retry-after"] == "1"
    assert calls(simulator) == before + 1


def test_a_call_that_failed_may_be_made_again(gateway, simulator):
    simulator.set_fault("*", fault="invalid_parameter", times=1)
    assert ask(gateway, "five", "again").status == 400
    assert ask(gateway, "five", "again").status == 200


def test_a_refused_call_may_be_made_again_after_a_top_up(gateway):
    budget = gateway.put_budget(scopeType="agent", scopeKey="poor", limitUsd="0.000001")
    assert ask(gateway, "six", "poor").status == 402
    path = f"/api/budgets/{budget['id']}/top-up"
    assert gateway.request("POST", path, {"amountUsd": "1", "reason": "test"}, key="admin").status < 300
    assert ask(gateway, "six", "poor").status == 200


def test_keys_of_two_callers_do_not_meet(gateway):
    made = gateway.request(
        "POST", "/api/keys", {"name": "b", "role": "agent", "scopes": ["agent:b"], "mayName": ["agent:*"]}, key="admin"
    )
    assert ask(gateway, "seven", "mine").status == 200
    body = {"prompt": "Hi", "maxTokens": 5}
    other = gateway.request("POST", "/agent/chat", body, key=made.json["key"], headers={"Idempotency-Key": "seven"})
    assert other.status == 200 and "idempotency-replayed" not in other.headers


def test_a_key_has_a_bounded_length(gateway):
    answer = ask(gateway, "x" * 256, "long")
    assert (answer.status, answer.json["error"]["field"]) == (400, "Idempotency-Key")
