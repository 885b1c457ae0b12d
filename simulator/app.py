"""The simulator as an ASGI application: which path is what."""

from collections.abc import Mapping
from typing import Any

from core.clock import Clock, SystemClock
from simulator import statements
from simulator.asgi import (
    AsgiApp,
    AsgiScope,
    ClientGone,
    Receive,
    Send,
    parse_object,
    read_body,
    send_error,
    send_json,
)
from simulator.auth import OAuthError
from simulator.control import Control
from simulator.errors import CallError
from simulator.serving import Endpoint, Serving
from simulator.settings import SimulatorSettings

_SERVING = "/serving-endpoints/"
_INVOCATIONS = "/invocations"
_API = "/api/2.0/serving-endpoints"
_MAX_CONTROL_BYTES = 1024 * 1024
_KINDS = {"chat/completions": "chat", "embeddings": "embedding"}


def create_app(settings: SimulatorSettings, clock: Clock | None = None) -> AsgiApp:
    """The simulator with these settings; its state lives as long as the application.

    Raises:
        ConfigError: the bill's file is there but can't be read.
    """
    return _App(settings, clock or SystemClock())


class _App:
    def __init__(self, settings: SimulatorSettings, clock: Clock) -> None:
        self._serving = Serving(settings, clock)
        self._control = Control(self._serving)
        self._statements = statements.Statements(self._serving.bill)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        path: str = scope["path"]
        try:
            if scope["method"] == "POST" and path.startswith(_SERVING):
                await self._invoke(path.removeprefix(_SERVING), headers, receive, send)
            else:
                await self._other(scope, path, headers, receive, send)
        except CallError as error:
            await send_error(send, error)
        except ClientGone:
            return

    async def _invoke(self, rest: str, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        kind = _KINDS.get(rest)
        if kind is None and not rest.endswith(_INVOCATIONS):
            raise _no_api(_SERVING + rest)
        name = None if kind is not None else rest.removesuffix(_INVOCATIONS)
        await self._serving.handle(name, kind, headers, receive, send)

    async def _other(
        self, scope: AsgiScope, path: str, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        method = scope["method"]
        if path.startswith("/simulator/"):
            body = await read_body(receive, headers, _MAX_CONTROL_BYTES)
            status, reply = self._control.handle(method, path, scope["query_string"], body)
            await send_json(send, status, reply)
        elif path == statements.PATH or path.startswith(f"{statements.PATH}/"):
            self._serving.door.check(headers.get(b"authorization"))
            body = await read_body(receive, headers, _MAX_CONTROL_BYTES)
            await send_json(send, 200, self._statement(method, path.removeprefix(statements.PATH).strip("/"), body))
        elif method == "POST" and path == "/oidc/v1/token":
            await self._token(headers, receive, send)
        elif method == "GET" and path.startswith(_API):
            self._serving.door.check(headers.get(b"authorization"))
            await send_json(send, 200, self._describe(path.removeprefix(_API).strip("/")))
        elif method == "GET" and path in _DISCOVERY:
            host = headers.get(b"host", b"localhost").decode("latin-1")
            await send_json(send, 200, _DISCOVERY[path](f"{scope['scheme']}://{host}"))
        else:
            raise _no_api(path)

    async def _token(self, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        form = await read_body(receive, headers, _MAX_CONTROL_BYTES)
        try:
            await send_json(send, 200, self._serving.door.issue(headers.get(b"authorization"), form))
        except OAuthError as error:
            await send_json(send, error.status, error.body)

    def _statement(self, method: str, rest: str, body: bytes) -> dict[str, Any]:
        match method, rest.split("/"):
            case "POST", [""]:
                return self._statements.execute(parse_object(body))
            case "GET", [statement_id] if statement_id:
                return self._statements.state(statement_id)
            case "GET", [statement_id, "result", "chunks", index] if index.isdigit():
                return self._statements.chunk(statement_id, int(index))
        raise _no_api(f"{statements.PATH}/{rest}")

    def _describe(self, name: str) -> dict[str, Any]:
        if name:
            return _description(self._serving.find(name))
        shown = [e for e in self._serving.endpoints.values() if not e.settings.retired]
        return {"endpoints": [_description(endpoint) for endpoint in shown]}

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self._serving.bill.flush()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _description(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as Databricks' management interface shows it."""
    chat = endpoint.settings.kind == "chat"
    served = {
        "name": endpoint.name,
        "foundation_model": {"name": endpoint.served_name, "display_name": endpoint.name},
    }
    return {
        "name": endpoint.name,
        "id": endpoint.name,
        "creator": "simulator",
        "state": {"ready": "READY", "config_update": "NOT_UPDATING"},
        "config": {"served_entities": [served]},
        "task": "llm/v1/chat" if chat else "llm/v1/embeddings",
    }


def _host_metadata(base_url: str) -> dict[str, Any]:
    return {"oidc_endpoint": f"{base_url}/oidc", "workspace_id": "1", "cloud": "AWS"}


def _oauth_metadata(base_url: str) -> dict[str, Any]:
    return {
        "issuer": f"{base_url}/oidc",
        "authorization_endpoint": f"{base_url}/oidc/v1/authorize",
        "token_endpoint": f"{base_url}/oidc/v1/token",
    }


#: What databricks-sdk asks a host before its first call.
_DISCOVERY = {
    "/.well-known/databricks-config": _host_metadata,
    "/oidc/.well-known/oauth-authorization-server": _oauth_metadata,
}


def _no_api(path: str) -> CallError:
    return CallError(404, "ENDPOINT_NOT_FOUND", f"No API found for {path}")
