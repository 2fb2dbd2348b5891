"""The page's application: the files, and every view as JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from fedbroker.errors import FedbrokerError
from fedbroker.web.app import json_response, make_app
from fedbroker.web.sse import Feed, message
from fedbroker_worker.board.follower import ServiceFollower

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.applications import Starlette
    from starlette.requests import Request

    from fedbroker.web.listen import Access

__all__ = ["SiloPage"]

ASSETS: Final = Path(__file__).parent / "assets"

FEED_SECONDS: Final = 0.02
"""Seconds between two messages to browsers; the follower gathers changes already."""

_JSON: Final = msgspec.json.Encoder()


class SiloPage:
    """The page of one silo.

    Args:
        places: where its service's control socket may be.
        access: who may open the page.

    Attributes:
        follower: follows the service; its task is the caller's.
        feed: sends changes to browsers; its task is the caller's.
        app: the application.
    """

    follower: ServiceFollower
    feed: Feed
    app: Starlette

    def __init__(self, places: Sequence[Path], access: Access) -> None:
        self.follower = ServiceFollower(places, lambda: self.feed.changed())
        self.feed = Feed(
            lambda: message("state", _JSON.encode(self.follower.state())),
            lambda: message("changes", _JSON.encode(self.follower.changes())),
            interval=FEED_SECONDS,
        )
        routes = [
            Route("/api/state", self._state),
            Route("/api/status", self._status),
            Route("/api/work", self._all_work),
            Route("/api/work/{number}", self._work),
            Route("/api/work/{number}/account", self._account),
            Route("/api/events", self._events),
        ]
        self.app = make_app(routes, (ASSETS,), access)

    async def _state(self, _request: Request) -> Response:
        return json_response(self.follower.state())

    async def _status(self, _request: Request) -> Response:
        state = self.follower.state()
        return _error(503, state.problem) if not state.reachable else json_response(state.status)

    async def _all_work(self, _request: Request) -> Response:
        return json_response({"work": self.follower.state().work})

    async def _work(self, request: Request) -> Response:
        found = self.follower.work(_number(request))
        return _error(404, "this work item is not known") if found is None else json_response(found)

    async def _account(self, request: Request) -> Response:
        try:
            found = await self.follower.account(_number(request))
        except FedbrokerError as error:
            return _error(404, str(error))
        return _error(502, "the silo's service answered something else") if found is None else json_response(found)

    async def _events(self, _request: Request) -> Response:
        return self.feed.response()


def _number(request: Request) -> int:
    """Return the id of a work item in a path; 0, which none has, for anything else."""
    text = str(request.path_params["number"])
    return int(text) if re.fullmatch(r"-?[0-9]{1,15}", text) else 0


def _error(status: int, reason: str) -> Response:
    return json_response({"error": reason}, status)
