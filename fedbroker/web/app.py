"""The application under every page: its files, strict headers, and who may open it."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedbroker.web.listen import Access

__all__ = ["HEADERS", "json_response", "make_app"]

_SHARED: Final = Path(__file__).parent / "assets"
"""The files that all pages share."""

_encoder: Final = msgspec.json.Encoder()

HEADERS: Final = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Headers of every response: a page loads nothing from elsewhere, runs no inline script, and is in no other's frame."""

_HOW: Final = "open the URL with ?token= that was printed at the start, or send Authorization: Bearer TOKEN\n"


def json_response(value: object, status: int = 200) -> Response:
    """Return a response with a value as JSON: a struct, or what JSON has."""
    return Response(_encoder.encode(value), status_code=status, media_type="application/json")


def make_app(routes: Sequence[BaseRoute], assets: Sequence[Path], access: Access) -> Starlette:
    """Return an application: ``GET /`` is ``index.html`` of the assets, ``GET /assets/NAME`` any other of them.

    Args:
        routes: further routes.
        assets: directories of files, which are read once, in addition to those that all pages share; of several
            files of one name the last one counts.
        access: who may open the page.
    """
    files = _Files((_SHARED, *assets))
    return Starlette(
        routes=[
            Route("/", files.index),
            Route("/assets/{name}", files.asset),
            *routes,
        ],
        middleware=[Middleware(_StrictHeaders), Middleware(_Gate, access=access)],
    )


class _Files:
    """The files of a page, in memory: few, small, and no path can lead out of them."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._files = {
            path.name: (path.read_bytes(), mimetypes.guess_type(path.name)[0] or "application/octet-stream")
            for directory in directories
            if directory.is_dir()
            for path in sorted(directory.iterdir())
            if path.is_file()
        }

    async def index(self, request: Request) -> Response:
        return self._response("index.html", request)

    async def asset(self, request: Request) -> Response:
        return self._response(request.path_params["name"], request)

    def _response(self, name: str, request: Request) -> Response:
        if name not in self._files:
            return PlainTextResponse("not found\n", status_code=404)
        content, kind = self._files[name]
        headers = {"etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"', "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)


class _StrictHeaders:
    """Adds :data:`HEADERS` to every response; what is not said to be kept is not to be stored."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("cache-control", "no-store")
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, send_with_headers)


class _Gate:
    """Answers requests of those who may open the page, and refuses all others."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(HTTPConnection(scope))
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, request: HTTPConnection) -> Response | None:
        """Return the response to a request that the application must not see; None if it may."""
        access = self._access
        if not access.knows_host(request.headers.get("host", "")):
            return PlainTextResponse("this page does not answer to that host name\n", status_code=421)
        if not access.token or access.is_cookie(request.cookies.get(access.cookie, "")):
            return self._without_token(request) if access.token else None
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and access.is_token(given.strip()):
            return None
        if access.is_token(request.query_params.get("token", "")):
            return self._with_cookie(request)
        return PlainTextResponse(
            f"this page needs its token: {_HOW}", status_code=401, headers={"www-authenticate": "Bearer"}
        )

    def _without_token(self, request: HTTPConnection) -> Response | None:
        """Return a redirect if the URL still shows the token, so that it stays in no history."""
        return self._with_cookie(request) if "token" in request.query_params else None

    def _with_cookie(self, request: HTTPConnection) -> Response:
        rest = [(name, value) for name, value in parse_qsl(request.url.query) if name != "token"]
        # One leading slash, and no backslash: browsers take both //x and /\x for another host.
        path = "/" + quote(request.url.path.lstrip("/\\"), safe="/%")
        response = RedirectResponse(path + (f"?{urlencode(rest)}" if rest else ""), status_code=303)
        response.set_cookie(
            self._access.cookie,
            self._access.cookie_value,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response
