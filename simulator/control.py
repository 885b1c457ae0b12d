"""The simulator's own interface, under ``/simulator``: its bill, its models, their faults.

It is not part of Databricks' interface and asks for no token: whoever can reach a simulator may steer it.
"""

from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs

import orjson

from core.errors import InvalidInput
from simulator.faults import FaultPlan, parse_faults
from simulator.serving import Endpoint, Serving
from simulator.settings import change_model

Reply = tuple[int, dict[str, Any]]

_UNKNOWN: Reply = (404, {"error": "no such path, or not with this method"})


class Control:
    """Answers one control call with a status and a JSON object.

    ========  =================================  ==============================================
    GET       /simulator/health                  200 calls in flight, OAuth tokens given out
    GET       /simulator/bill?recent=N           the bill, with the last N calls
    POST      /simulator/reset                   bill and rate limit windows to zero
    GET, PUT  /simulator/models/{name}           settings of a model; PUT changes the fields sent
    PUT       /simulator/models/{name}/faults    replaces the faults; name * arms them for all
    DELETE    /simulator/models/{name}/faults    clears them
    DELETE    /simulator/faults                  clears all
    ========  =================================  ==============================================
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def handle(self, method: str, path: str, query: bytes, body: bytes) -> Reply:
        """Do what the call asks for; 400 names a field and its rule, 404 an unknown model or path."""
        parts = path.removeprefix("/simulator/").split("/")
        try:
            match method, parts:
                case "GET", ["health"]:
                    return 200, self._health()
                case "GET", ["bill"]:
                    return 200, self._serving.bill.as_dict(_recent(query))
                case "POST", ["reset"]:
                    self._serving.reset()
                    return 200, {"reset": True}
                case "DELETE", ["faults"]:
                    return self._clear_all()
                case _, ["models", name, *rest]:
                    return self._model(method, name, rest, body)
                case _:
                    return _UNKNOWN
        except InvalidInput as error:
            return 400, {"error": error.message, "field": error.field}

    def _health(self) -> dict[str, Any]:
        in_flight, tokens = self._serving.in_flight, self._serving.door.issued_count
        return {"status": "ok", "in_flight": in_flight, "oauth_tokens_issued": tokens}

    def _model(self, method: str, name: str, rest: list[str], body: bytes) -> Reply:
        endpoint = self._serving.endpoints.get(name)
        if endpoint is None and name != "*":
            return 404, {"error": f"no model is called {name}"}
        if rest == ["faults"]:
            return self._arm(endpoint, _plan(method, body))
        return _UNKNOWN if endpoint is None or rest else self._settings(method, endpoint, body)

    def _arm(self, endpoint: Endpoint | None, plan: FaultPlan | None) -> Reply:
        if plan is None:
            return _UNKNOWN
        if endpoint is None:
            self._serving.common_faults = plan
        else:
            endpoint.faults = plan
        return 200, {"armed": bool(plan)}

    def _settings(self, method: str, endpoint: Endpoint, body: bytes) -> Reply:
        if method == "PUT":
            endpoint.settings = change_model(endpoint.settings, _json(body))
        elif method != "GET":
            return _UNKNOWN
        return 200, {"name": endpoint.name, **asdict(endpoint.settings)}

    def _clear_all(self) -> Reply:
        self._serving.common_faults = FaultPlan()
        for endpoint in self._serving.endpoints.values():
            endpoint.faults = FaultPlan()
        return 200, {"armed": False}


def _plan(method: str, body: bytes) -> FaultPlan | None:
    """The faults that a call arms; an empty plan for DELETE; None for another method."""
    if method == "DELETE":
        return FaultPlan()
    return FaultPlan(parse_faults(_json(body))) if method == "PUT" else None


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidInput("body", "must be JSON") from None


def _recent(query: bytes) -> int:
    text = parse_qs(query.decode("latin-1")).get("recent", ["0"])[-1]
    if not text.isdigit():
        raise InvalidInput("recent", "must be a number of calls")
    return int(text)
