"""The HTTP surface of the gateway: hot routes on plain ASGI, the rest on FastAPI, one port."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from core.errors import SpendgateError
from gateway.errors import problem_of
from gateway.hot import HotRoutes
from gateway.http import Receive, Scope, Send, read_body, read_headers
from gateway.openapi import describe_hot_routes
from gateway.surfaces import OpenAISurface
from gateway.webhook import HeliconeWebhook
from routing.model import Routes
from telemetry import metrics

ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class GatewayApp:
    """The ASGI application: what is not a POST to a hot route, which `connection` serves."""

    hot: HotRoutes
    rest: ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "http" and self.hot.surface(scope["path"]) is not None:
            answer = {"type": "invalid_request_error", "code": "method_not_allowed", "message": "use POST"}
            await JSONResponse({"error": answer}, 405, {"Allow": "POST"})(scope, receive, send)
        else:
            await self.rest(scope, receive, send)


def create_router(
    hot: HotRoutes,
    webhook: HeliconeWebhook,
    routes: Routes,
    readiness: Callable[[], Awaitable[tuple[bool, dict[str, Any]]]],
) -> APIRouter:
    """The gateway's routes that are not hot: webhook, models, health.

    readiness: (whether calls are admitted, what `/readyz` shows).
    """
    router = APIRouter()

    @router.post("/webhook/helicone", status_code=204, tags=["webhooks"])
    async def helicone(request: Request) -> Response:
        """Spend from elsewhere: the simple payload or Helicone's own; 204, also for a replay."""
        headers = read_headers(request.scope["headers"], hot.limits)
        raw = await read_body(headers, request.receive, hot.limits)
        await webhook.take(raw, headers.get("helicone-signature"))
        return Response(status_code=204)

    @router.get("/v1/models", tags=["models"])
    async def models(request: Request) -> Response:
        """The models that can be called, in OpenAI's shape."""
        try:
            await hot.callers.authenticate(read_headers(request.scope["headers"], hot.limits))
        except SpendgateError as error:
            problem = problem_of(error)
            body = OpenAISurface("chat").problem(problem)
            return Response(body, problem.status, media_type="application/json")
        data = [
            {"id": m.name, "object": "model", "created": 0, "owned_by": m.owned_by or m.endpoint} for m in routes.models
        ]
        return JSONResponse({"object": "list", "data": data})

    @router.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @router.get("/readyz", tags=["health"])
    async def readyz() -> JSONResponse:
        """Whether calls are admitted: the store answers; and the circuit of every model that has failed."""
        ready, report = await readiness()
        return JSONResponse(report, 200 if ready else 503)

    @router.get("/metrics", tags=["health"])
    async def numbers() -> Response:
        """Numbers of all workers together, for Prometheus."""
        return Response(await asyncio.to_thread(metrics.render), media_type=metrics.CONTENT_TYPE)

    return router


def create_app(hot: HotRoutes, rest: FastAPI) -> GatewayApp:
    """Put the hot routes in front of a FastAPI application and describe them in its documentation."""
    describe_hot_routes(rest)
    return GatewayApp(hot, rest)
