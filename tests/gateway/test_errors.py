"""Every error has an HTTP answer, on every surface."""

import json

import pytest

import telemetry.prices  # noqa: F401  their errors belong to the tree
from core.errors import ConfigError, InvalidInput, SpendgateError
from gateway.errors import problem_of, problem_of_upstream
from gateway.surfaces import AgentSurface, DatabricksSurface, OpenAISurface
from routing.errors import FailureKind, UpstreamError


def classes(of: type[SpendgateError] = SpendgateError) -> list[type[SpendgateError]]:
    return [of, *(c for child in of.__subclasses__() for c in classes(child))]


@pytest.mark.parametrize("kind", sorted(set(classes()), key=str), ids=str)
def test_every_error_has_a_status_and_a_code_of_its_own(kind: type[SpendgateError]) -> None:
    error = kind("field", "is wrong") if issubclass(kind, InvalidInput) else kind("is wrong")
    problem = problem_of(error)
    assert 400 <= problem.status <= 503 and problem.code and "is wrong" in problem.message
    assert (problem.param == "field") == isinstance(error, InvalidInput)
    if problem.status == 503:
        assert "Retry-After" in problem.lines


def test_codes_are_not_shared() -> None:
    codes = [c.code for c in classes() if "code" in vars(c)]
    assert len(codes) == len(set(codes))
    assert ConfigError.status == 500


@pytest.mark.parametrize("kind", list(FailureKind))
def test_every_upstream_failure_has_an_answer(kind: FailureKind) -> None:
    problem = problem_of_upstream(UpstreamError(kind, "it says so", 418, "VENDOR_CODE", 2.4))
    assert 400 <= problem.status < 600 and problem.status != 402, "402 is kept for budgets"
    assert problem.message == "upstream: it says so" and problem.code == "vendor_code"
    assert ("Retry-After" in problem.lines) == (problem.status in (429, 503))


@pytest.mark.parametrize("surface", [AgentSurface(), OpenAISurface("chat"), DatabricksSurface()], ids=lambda s: s.name)
def test_each_surface_has_its_envelope(surface: AgentSurface) -> None:
    body = json.loads(surface.problem(problem_of(InvalidInput("model", "is required"))))
    if surface.name == "databricks":
        assert body["error_code"] == "INVALID_PARAMETER_VALUE" and body["message"] == "model is required"
    else:
        assert body["error"]["message"] == "model is required"
        assert body["error"]["param" if surface.name == "openai" else "field"] == "model"
