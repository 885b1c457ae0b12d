"""The pages under /ui, for people: rendered here, readable without JavaScript; with it, numbers move and charts appear.

Everything is served by this process; nothing is loaded from elsewhere, and no script or style stands in a page.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from budget.model import BudgetState
from core.errors import BodyTooLarge, InvalidInput, NotFound, SpendgateError, Unauthorized
from core.scope import parse_scope
from dashboard import formats, history, views
from dashboard.budget_pages import budget_pages
from dashboard.deps import Deps
from dashboard.live import Moves, Socket
from dashboard.price_pages import price_pages
from dashboard.ranges import GROUPS, OUTCOMES, RANGES, ZONE_COOKIE, Range, range_of, zone_of
from dashboard.session import LONGEST_S, Sessions, check_origin
from dashboard.what_if_pages import what_if_pages

_MAX_FORM_BYTES = 65_536
_STILL_HERE_S = 5.0
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_ASSETS = {
    "app.css": "text/css",
    "app.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "vendor/echarts-6.1.0.min.js": "text/javascript",
    "vendor/htmx-2.0.11.min.js": "text/javascript",
}
Handler = Callable[[Request], Awaitable[Response]]


class Pages:
    """The handlers."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self.sessions = Sessions(deps.keys, deps.clock)
        self.moves = Moves(deps)
        self._templates = Environment(
            loader=PackageLoader("dashboard"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        filters = ("money", "exact", "nano_of", "count", "share", "percent", "local", "duration", "told")
        self._templates.filters |= {name: getattr(formats, name) for name in filters}
        self._templates.filters["told_refusal"] = views.told_refusal
        self._templates.globals |= {"icons": formats.STATE_ICONS, "states": list(BudgetState), "ranges": RANGES}
        self._templates.globals |= {"groups": GROUPS, "outcomes": list(OUTCOMES), "few": views.FEW, "most": views.MOST}
        self._assets = {name: files("dashboard").joinpath("static", name).read_bytes() for name in _ASSETS}
        self._versions = {name: sha256(data).hexdigest()[:12] for name, data in self._assets.items()}
        self._templates.globals["asset"] = self._asset_url

    async def overview(self, request: Request) -> Response:
        """What is spent now, by whom, and where it leads."""
        shown = self._shown(request)
        view = await views.overview(self._deps, shown)
        charts = self._charts(shown, view.history, view.burn)
        many = request.query_params.get("accounts") == "all"
        return self.show(request, "overview.html", shown=shown, view=view, many=many, **charts)

    async def scope(self, request: Request) -> Response:
        """An agent, a team, a user, …"""
        kind, key = request.path_params["kind"], request.path_params["key"]
        scope = parse_scope("scope", kind, key)
        shown = self._shown(request)
        view = await views.scope_view(self._deps, scope, shown)
        charts = self._charts(shown, view.history, view.burn)
        return self.show(request, "scope.html", shown=shown, view=view, **charts)

    async def request(self, request: Request) -> Response:
        """Why a request was served as it was, or refused."""
        zone = zone_of(request.query_params, request.cookies)
        found = await views.explained(self._deps.ledger, request.path_params["request_id"])
        return self.show(request, "request.html", found=found, zone=zone)

    async def find(self, request: Request) -> Response:
        """To the page of what was typed: a request's id, ``type:key``, or an agent's name."""
        text = request.query_params.get("q", "").strip()
        kind, separator, key = text.partition(":")
        if not text:
            return _to("/ui")
        if text.startswith("req_"):
            return _to(f"/ui/request/{quote(text, safe='')}")
        kind, key = (kind, key) if separator else ("agent", text)
        return _to(f"/ui/scope/{quote(kind, safe='')}/{quote(key, safe='')}")

    async def unknown(self, request: Request) -> Response:
        """An address under /ui that is none."""
        raise NotFound(f"there is no page {request.url.path}")

    async def live(self, request: Request) -> Response:
        """Server-sent events: accounts whose money has moved, as the pages show them."""
        self.sessions.check(request)
        stream = self._moved(request)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _moved(self, request: Request) -> AsyncIterator[bytes]:
        async with self.moves.listen() as listener:
            while not await request.is_disconnected():
                try:
                    moved = await asyncio.wait_for(listener.next(), _STILL_HERE_S)
                except TimeoutError:
                    yield b": still here\n\n"
                else:
                    if moved is None:
                        return
                    yield b"data: " + orjson.dumps(moved) + b"\n\n"

    async def login_form(self, request: Request) -> Response:
        """Asks for the admin key."""
        return self._render(request, "login.html", 200, after=_safe(request.query_params.get("after")), error=None)

    async def login(self, request: Request) -> Response:
        """Takes it."""
        form = await _form(request)
        after = _safe(form.get("after"))
        try:
            check_origin(request)
            response = _to(after)
            secure = request.url.scheme == "https"
            self.sessions.begin(response, form.get("key", ""), secure=secure)
            own = zone_of({}, {ZONE_COOKIE: form.get("zone", "")})
            response.set_cookie(ZONE_COOKIE, own, LONGEST_S, httponly=True, samesite="strict", secure=secure)
        except SpendgateError as error:
            return self._render(request, "login.html", error.status, after=after, error=formats.told(error))
        return response

    async def logout(self, request: Request) -> Response:
        """Ends the session."""
        await self.posted(request)
        response = _to("/login")
        self.sessions.end(response)
        return response

    async def asset(self, request: Request) -> Response:
        """A style, a script, an icon."""
        name = request.path_params["name"]
        if name not in _ASSETS:
            raise NotFound(f"there is no file {name}")
        named = request.query_params.get("v") == self._versions[name]
        kept = "max-age=31536000, immutable" if named else "no-cache"
        headers = {"Cache-Control": kept, "X-Content-Type-Options": "nosniff"}
        return Response(self._assets[name], media_type=_ASSETS[name], headers=headers)

    def _asset_url(self, name: str) -> str:
        """Of a file of this very version: a browser keeps it, and never runs an older one with a newer page."""
        return f"/ui/static/{name}?v={self._versions[name]}"

    def guarded(self, handler: Handler) -> Handler:
        """The same for who is logged in; others are asked for the key, and errors become pages."""

        async def page(request: Request) -> Response:
            try:
                self.sessions.check(request)
                return await handler(request)
            except Unauthorized:
                asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                return _to(f"/login?{urlencode({'after': asked})}")
            except SpendgateError as error:
                return self.show(request, "error.html", error.status, error=error)

        return page

    def _shown(self, request: Request) -> Range:
        return range_of(request.query_params, self._deps.clock.now_ms(), request.cookies)

    def _charts(self, shown: Range, known: history.History, burn: history.Burn | None) -> dict[str, Any]:
        period = burn and history.burn_chart(burn, self._deps.clock.now_ms())
        spend = history.spend_chart(known, shown)
        return {
            "spend_chart": formats.for_script(spend),
            "burn_chart": formats.for_script(period),
            "known": known,
            "zones": sorted({"UTC", shown.zone, *(budget.zone for budget in self._deps.book.all())}),
        }

    async def posted(self, request: Request) -> dict[str, str]:
        """The fields of a form that one of our pages sent.

        Raises:
            Unauthorized, Forbidden: nobody is logged in, or the form is another site's.
        """
        form = await _form(request)
        self.sessions.check_form(request, form)
        return form

    def show(self, request: Request, name: str, status: int = 200, **context: Any) -> Response:
        """A page for who is logged in."""
        session = self.sessions.check(request)
        response = self._render(request, name, status, session=session, **context)
        self.sessions.keep(response, session, secure=request.url.scheme == "https")
        return response

    def _render(self, request: Request, name: str, status: int, **context: Any) -> Response:
        context = {"path": request.url.path, "now_ms": self._deps.clock.now_ms(), "session": None} | context
        return HTMLResponse(self._templates.get_template(name).render(context), status, _HEADERS)


def router(deps: Deps) -> APIRouter:
    """The routes, outside of the documented API."""
    routes, pages = APIRouter(include_in_schema=False), Pages(deps)
    for path, handler in (
        ("/ui", pages.overview),
        ("/ui/scope/{kind}/{key:path}", pages.scope),
        ("/ui/request/{request_id}", pages.request),
        ("/ui/find", pages.find),
    ):
        routes.add_api_route(path, pages.guarded(handler), methods=["GET"], response_model=None)
    more = (*budget_pages(pages, deps), *price_pages(pages, deps), *what_if_pages(pages, deps))
    for method, path, page in more:
        routes.add_api_route(path, pages.guarded(page), methods=[method], response_model=None)
    routes.add_api_websocket_route("/ws/events", Socket(deps, pages.sessions, pages.moves).serve)
    routes.add_api_route("/ui/events", pages.live, methods=["GET"], response_model=None)
    routes.add_api_route("/login", pages.login_form, methods=["GET"], response_model=None)
    routes.add_api_route("/login", pages.login, methods=["POST"], response_model=None)
    routes.add_api_route("/logout", pages.logout, methods=["POST"], response_model=None)
    routes.add_api_route("/ui/static/{name:path}", pages.asset, methods=["GET"], response_model=None)
    routes.add_api_route("/ui/{rest:path}", pages.guarded(pages.unknown), methods=["GET"], response_model=None)
    routes.add_api_route("/", lambda: _to("/ui"), methods=["GET"], response_model=None)
    return routes


def _safe(path: str | None) -> str:
    """Where to go after the login: a page of ours."""
    return path if path and path.startswith("/ui") and "\\" not in path else "/ui"


def _to(path: str) -> Response:
    return RedirectResponse(path, 303, {"Cache-Control": "no-store"})


async def _form(request: Request) -> dict[str, str]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            raise BodyTooLarge(f"the form is over {_MAX_FORM_BYTES} bytes")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True))
    except UnicodeDecodeError:
        raise InvalidInput("form", "must be UTF-8") from None
