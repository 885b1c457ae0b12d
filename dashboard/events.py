"""GET /api/events: the stream of holds, money, limits, states and configuration."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from core.key_codec import KEY_KIND
from dashboard.deps import Deps
from dashboard.wire import answer


def router(deps: Deps) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["events"])

    @routes.get("/events")
    async def list_events(
        after: Annotated[str | None, Query(pattern=r"^\d{1,20}(-\d{1,20})?$")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        """Events after the id `after`, oldest first; `next` is the `after` of the following page."""
        rows = await deps.store.events(after or "-", limit + 1)  # the store's answer begins with `after` itself
        page = [(event_id, fields) for event_id, fields in rows if event_id != after][:limit]
        events = [{"eventId": event_id, **_public(fields)} for event_id, fields in page]
        return answer({"events": events, "next": page[-1][0] if page else after})

    return routes


def _public(fields: dict[str, str]) -> dict[str, str]:
    """An event without the text of a key's document: digests stay inside."""
    if fields.get("id", "").startswith(f"{KEY_KIND}:"):
        return {name: value for name, value in fields.items() if name != "text"}
    return fields
