"""What the upstream does wrong, and what it costs: nothing where nothing was charged, never nothing where it was."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bill import bill_nano
from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.invariants import assert_books_are_right
from tests.support.simulated import Simulated, running_simulator

DBRX, MIXTRAL = "databricks-dbrx-instruct", "databricks-mixtral-8x7b-instruct"
LLAMA = "databricks-meta-llama-3-1-8b-instruct"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulated]:
    with running_simulator() as simulated:
        yield simulated


@pytest.fixture
def gateway(simulator: Simulated) -> Iterator[RunningGateway]:
    simulator.clear_faults()
    upstream = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "x", "SPENDGATE_CALL_TIMEOUT_S": "3"}
    with running_gateway(**upstream) as running:
        yield running
    simulator.clear_faults()


def outcomes(gateway: RunningGateway, agent: str) -> list[tuple[str, str, int]]:
    """(type, outcome, cost) of each attempt of an agent, in order; the books are checked on the way."""
    events = assert_books_are_right(gateway)
    mine = [e for e in events if f":{agent}" in e.get("accounts", "") and e["type"] in ("settle", "void", "expire")]
    return [(e["type"], e.get("outcome", ""), int(e["cost_nano"])) for e in mine]


def cost_nano(answer: Answer) -> int:
    return round(answer.json["cost"] * 10**9)


def test_an_upstream_that_is_away_for_a_moment_is_asked_again(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault(DBRX, fault="unavailable", times=1)
    answer = gateway.chat(agent="moment", maxTokens=10)
    assert (answer.status, answer.json["model"]) == (200, DBRX)
    assert outcomes(gateway, "moment") == [("void", "unavailable", 0), ("settle", "answered", cost_nano(answer))]


def test_a_rate_limit_is_waited_for(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault(DBRX, fault="rate_limit", times=1, retry_after_s=1)
    answer = gateway.chat(agent="limited", maxTokens=10)
    assert (answer.status, answer.json["model"]) == (200, DBRX)
    assert answer.json["latencyMs"] >= 1000


@pytest.mark.parametrize("fault", ["daily_limit", "policy_limit", "not_found", "unauthorized"])
def test_what_waiting_does_not_help_falls_back_at_once(
    gateway: RunningGateway, simulator: Simulated, fault: str
) -> None:
    before = simulator.bill()["models"].get(DBRX, {}).get("requests", 0)
    simulator.set_fault(DBRX, fault=fault)
    answer = gateway.chat(agent="fallen", maxTokens=10)
    assert (answer.status, answer.json["model"]) == (200, MIXTRAL)
    assert answer.json["why"] == f"Fallback: {DBRX} failed upstream"
    assert simulator.bill()["models"].get(DBRX, {}).get("requests", 0) - before <= 1, "it was not hammered"
    assert [o[0] for o in outcomes(gateway, "fallen")] == ["void", "settle"]


def test_a_daily_limit_is_not_tried_again_today(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault(DBRX, fault="daily_limit", times=1)
    assert gateway.chat(agent="daily", maxTokens=10).json["model"] == MIXTRAL
    again = gateway.chat(agent="daily", maxTokens=10)
    assert again.json["model"] == MIXTRAL and again.headers["x-circuit-open"] == DBRX
    report = gateway.request("GET", "/readyz", key=None).json
    assert report["ready"] and report["circuits"][DBRX]["state"] == "open"
    assert report["circuits"][DBRX]["lastFailure"] == "daily_limit"


def test_a_circuit_opens_and_says_so(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault(DBRX, fault="unavailable")
    answers = [gateway.chat(agent="circuit", maxTokens=5) for _ in range(4)]
    assert {a.json["model"] for a in answers} == {MIXTRAL}
    assert answers[-1].headers["x-circuit-open"] == DBRX
    assert answers[-1].json["why"] == f"Fallback: the circuit of {DBRX} is open"


def test_a_circuit_closes_again(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault(DBRX, fault="policy_limit", times=1, retry_after_s=2)
    began_s = time.monotonic()
    assert gateway.chat(agent="closes", maxTokens=5).json["model"] == MIXTRAL
    assert gateway.chat(agent="closes", maxTokens=5).headers["x-circuit-open"] == DBRX
    while gateway.chat(agent="closes", maxTokens=5).json["model"] != DBRX:
        assert time.monotonic() - began_s < 5, "it is tried again"
        time.sleep(0.05)
    assert time.monotonic() - began_s > 1.5, "not before the limit said so"
    assert gateway.request("GET", "/readyz", key=None).json["circuits"] == {}
    attempts = simulator.bill(recent=1000)["client_request_ids"]
    mine = [c for c in attempts if (c["usage_context"] or {}).get("agent") == "closes"]
    assert len(mine) == len(outcomes(gateway, "closes")), "each attempt that was sent has one end"


def test_two_failures_in_a_row_fall_back_for_one_charge(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault(DBRX, fault="unavailable", times=2)
    answer = gateway.chat(agent="twice", maxTokens=10)
    assert (answer.status, answer.json["model"]) == (200, MIXTRAL)
    voided, settled = ("void", "unavailable", 0), ("settle", "answered", cost_nano(answer))
    assert outcomes(gateway, "twice") == [voided, voided, settled]


def test_garbage_everywhere_is_a_502_and_is_charged(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault("*", fault="garbage")
    answer = gateway.chat(agent="nonsense", maxTokens=10)
    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_broken")
    assert [o[:2] for o in outcomes(gateway, "nonsense")] == [("settle", "broken")] * 2
    billed = bill_nano(simulator.bill(recent=1000), agent="nonsense")
    assert round(gateway.spend("nonsense")["spent"] * 10**9) >= billed > 0


@pytest.mark.parametrize("tokens", [9_000_000_000_000_000, 1e308, 1.5])
def test_a_count_of_tokens_that_is_absurd_is_estimated(
    gateway: RunningGateway, simulator: Simulated, tokens: float
) -> None:
    simulator.set_fault(DBRX, fault="huge_usage", usage_tokens=tokens)
    for stream in (False, True):
        assert gateway.chat(agent="absurd", maxTokens=2000, stream=stream).status == 200
    settled = [e for e in assert_books_are_right(gateway) if e["type"] == "settle"]
    assert len(settled) == 2
    for event in settled:
        assert event["basis"] == "estimated" and 0 < int(event["cost_nano"]) < int(event["held_nano"])


def test_a_wrong_request_is_the_callers_to_hear(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault("*", fault="invalid_parameter")
    chat = {"model": "dbrx", "messages": [{"role": "user", "content": "x"}]}
    openai = gateway.request("POST", "/v1/chat/completions", chat)
    assert openai.status == 400 and openai.json["error"]["message"].startswith("upstream: ")
    databricks = gateway.request("POST", f"/serving-endpoints/{DBRX}/invocations", chat)
    assert (databricks.status, databricks.json["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert [o[0] for o in outcomes(gateway, "quickstart")] == ["void", "void"]


def test_when_all_is_lost_the_caller_hears_it(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault("*", fault="unavailable")
    answer = gateway.chat(agent="lost", maxTokens=5)
    assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1
    assert {o[0] for o in outcomes(gateway, "lost")} == {"void"}
    assert gateway.spend("lost")["spent"] == 0


@pytest.mark.parametrize("fault", ["garbage", "truncated"])
def test_a_broken_answer_is_charged_at_its_bound(gateway: RunningGateway, simulator: Simulated, fault: str) -> None:
    simulator.set_fault(DBRX, fault=fault)
    answer = gateway.chat(agent=fault, maxTokens=10)
    assert answer.json["model"] == MIXTRAL, "the fallback answered"
    first, second = outcomes(gateway, fault)
    assert first[:2] == ("settle", "broken") and first[2] > 0
    assert second[:2] == ("settle", "answered")
    assert cost_nano(answer) == first[2] + second[2] == round(gateway.spend(fault)["spent"] * 10**9)


@pytest.mark.parametrize("fault", ["no_usage", "zero_usage", "negative_usage"])
@pytest.mark.parametrize("stream", [False, True])
def test_usage_that_can_not_be_believed_is_estimated(
    gateway: RunningGateway, simulator: Simulated, fault: str, stream: bool
) -> None:
    simulator.set_fault(DBRX, fault=fault)
    agent = f"{fault}-{stream}"
    answer = gateway.chat('Digits, 1 2 3 4 5 and {"marks": [1, 2, 3]}', agent=agent, maxTokens=2000, stream=stream)
    assert answer.status == 200
    (settled,) = [e for e in assert_books_are_right(gateway) if e["type"] == "settle"]
    assert settled["basis"] == "estimated"
    billed = bill_nano(simulator.bill(recent=1000), agent=agent)
    assert 0 < billed <= int(settled["cost_nano"]) < int(settled["held_nano"])


def test_usage_above_what_was_asked_for_is_posted_in_full(gateway: RunningGateway, simulator: Simulated) -> None:
    gateway.put_budget(scopeType="agent", scopeKey="over", limitUsd="0.01", cadence="daily", hardCap=1)
    simulator.set_fault(DBRX, fault="huge_usage", usage_tokens=100_000)
    answer = gateway.chat(agent="over", maxTokens=10)
    assert answer.status == 200
    settled = next(e for e in assert_books_are_right(gateway) if e["type"] == "settle")
    assert int(settled["overage_nano"]) == int(settled["cost_nano"]) - int(settled["held_nano"]) > 0
    assert gateway.chat(agent="over", maxTokens=10).status == 402, "and the next call is refused"
    assert "more than it held" in gateway.log.read_text()


def test_an_upstream_that_hangs_is_cut_off_and_charged(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault("*", fault="hang")
    began_s = time.monotonic()
    answer = gateway.chat(agent="hangs", maxTokens=10)
    assert answer.status == 504
    assert time.monotonic() - began_s < 3.5, "within the time of a call, fallbacks included"
    ((kind, outcome, cost),) = outcomes(gateway, "hangs")
    assert (kind, outcome) == ("settle", "timeout") and cost > 0, "no attempt is begun that has no time left"
    simulator.wait_idle()


def test_a_stream_that_breaks_off_tells_the_client_and_is_charged(
    gateway: RunningGateway, simulator: Simulated
) -> None:
    simulator.set_fault(DBRX, fault="break_stream", chunks=3)
    body = {"model": "dbrx", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 200}
    answer = gateway.request("POST", "/v1/chat/completions", body)
    assert answer.status == 200
    assert b'data: {"error":{' in answer.body and b"[DONE]" not in answer.body
    (settled,) = [e for e in assert_books_are_right(gateway) if e["type"] == "settle"]
    assert (settled["basis"], settled["outcome"]) == ("estimated", "broken")
    assert int(settled["cost_nano"]) == int(settled["held_nano"]), "the provider may have made it to its end"


def test_databricks_oauth(tmp_path: Path) -> None:
    with running_simulator(client_id="app", client_secret="s3cret", access_tokens=["unused"]) as simulated:
        upstream = {"DATABRICKS_BASE_URL": f"{simulated.base_url}/", "DATABRICKS_CLIENT_ID": "app"}
        with running_gateway(DATABRICKS_CLIENT_SECRET="s3cret", **upstream) as gateway:
            assert [gateway.chat(maxTokens=5).status for _ in range(5)] == [200] * 5
            assert simulated.oauth_tokens_issued() == 1
            assert "s3cret" not in gateway.log.read_text()


def test_a_second_provider_takes_over(simulator: Simulated, tmp_path: Path) -> None:
    routes = tmp_path / "routes.yaml"
    routes.write_text(
        f"""
endpoints:
  first: {{kind: databricks, base_url: "{simulator.base_url}", api_key: "${{TOKEN:-x}}"}}
  second: {{kind: openai, base_url: "{simulator.base_url}/serving-endpoints", api_key: y}}
models:
  - {{name: {DBRX}, endpoint: first, role: primary}}
  - {{name: spare, upstream_name: {LLAMA}, endpoint: second, role: fallback}}
prices:
  - {{model: spare, effective_from: 2026-01-01, usd_per_million_tokens: {{input: "0.15", output: "0.45"}}}}
"""
    )
    with running_gateway(SPENDGATE_ROUTES=str(routes)) as gateway:
        simulator.set_fault(DBRX, fault="not_found")
        answer = gateway.chat(agent="two", maxTokens=10)
        simulator.clear_faults()
        assert (answer.status, answer.json["model"]) == (200, "spare")
        usage = answer.json["usage"]
        assert cost_nano(answer) == usage["inputTokens"] * 150 + usage["outputTokens"] * 450
