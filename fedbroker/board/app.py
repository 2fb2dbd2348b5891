"""The board as a web application: every view as JSON, and server-sent events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedbroker.board.state import BoardState
from fedbroker.web.app import json_response, make_app
from fedbroker.web.listen import Access
from fedbroker.web.sse import Feed, message

__all__ = ["board_app", "board_feed"]

ASSETS: Final = Path(__file__).parent / "assets"

_encoder: Final = msgspec.json.Encoder()


def board_feed(state: BoardState, now: Callable[[], float]) -> Feed:
    """Return the events of a board: ``state`` once, then ``changes``."""

    def changes() -> bytes:
        found = state.changes(now())
        return b"" if found is None else message("changes", _encoder.encode(found))

    return Feed(lambda: message("state", _encoder.encode(state.snapshot(now()))), changes)


def board_app(state: BoardState, feed: Feed, now: Callable[[], float], access: Access) -> Starlette:
    """Return the board's application.

    Args:
        state: its content.
        feed: of the same state.
        now: the clock of the state.
        access: who may open it.
    """
    view = _Views(state, now)

    async def events(_: Request) -> Response:
        return feed.response()

    routes = [
        Route("/api/state", view.state),
        Route("/api/cohorts", view.cohorts),
        Route("/api/cohorts/{name}", view.cohort),
        Route("/api/sessions", view.sessions),
        Route("/api/sessions/{id}", view.session),
        Route("/api/curves", view.curves),
        Route("/api/notices", view.notices),
        Route("/api/events", events),
    ]
    return make_app(routes, (ASSETS,), access)


class _Views:
    """Handlers of requests for one view each."""

    def __init__(self, state: BoardState, now: Callable[[], float]) -> None:
        self._state = state
        self._now = now

    async def state(self, _: Request) -> Response:
        return json_response(self._state.snapshot(self._now()))

    async def cohorts(self, _: Request) -> Response:
        return json_response(self._state.cohort_views())

    async def cohort(self, request: Request) -> Response:
        name = request.path_params["name"]
        cohort = next((view for view in self._state.cohort_views() if view.name == name), None)
        if cohort is None:
            return _missing("cohort", name)
        return json_response({"cohort": cohort, "silos": self._state.silo_views(name)})

    async def sessions(self, _: Request) -> Response:
        return json_response(self._state.session_views(self._now()))

    async def session(self, request: Request) -> Response:
        details = self._state.details(request.path_params["id"], self._now())
        return _missing("session", request.path_params["id"]) if details is None else json_response(details)

    async def curves(self, _: Request) -> Response:
        return json_response(self._state.curve_views())

    async def notices(self, _: Request) -> Response:
        return json_response(self._state.notices())


def _missing(kind: str, name: str) -> Response:
    return json_response({"error": f"no {kind} {name[:100]!r} is known here"}, 404)
