"""A local stand-in for the parts of Google's Sheets API (v4) and its token endpoint that a silo uses.

For the demo and for tests: a silo's settings name it as ``endpoint``, a service account's file as its ``token_uri``.
Nothing else is different: tokens are checked, and spreadsheets must be shared.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

__all__ = ["Answer", "Book", "SheetsServer"]

Cells = list[list[object]]

_VALUES: Final = re.compile(r"/v4/spreadsheets/(?P<key>[\w-]+)(/values/(?P<range>.+))?")
_RANGE: Final = re.compile(r"(?:'(?P<title>(?:[^']|'')+)')(?:!(?P<from>[A-Z]+\d*)(?::(?P<to>[A-Z]+\d*|\d+))?)?")
_CELL: Final = re.compile(r"([A-Z]*)(\d*)")

_AUDIENCE: Final = "https://oauth2.googleapis.com/token"
"""The audience that google-auth always signs, for any token endpoint."""

_DENIED: Final = (403, "PERMISSION_DENIED", "The caller does not have permission")
_UNKNOWN: Final = (404, "NOT_FOUND", "Requested entity was not found.")
_NO_TOKEN: Final = (401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")


@dataclass
class Book:
    """A spreadsheet.

    Attributes:
        sheets: rows of cells by title; ``""`` is an empty cell.
        readers: the addresses with which it is shared.
    """

    sheets: dict[str, Cells]
    readers: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Answer:
    """A fixed response to one request, in place of the regular one."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, name: str, message: str, *, reason: str = "", **headers: str) -> Self:
        """Return an error in the format of Google's APIs."""
        error: dict[str, Any] = {"code": status, "message": message, "status": name}
        if reason:
            error["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}]
        return cls(status, {"error": error}, {key.replace("_", "-"): value for key, value in headers.items()})


class SheetsServer:
    """The stand-in server; listens while its context is open.

    Args:
        key_size: bits of its service accounts' keys; loading one of Google's 2048 bits takes a tenth of a second.

    Attributes:
        books: the spreadsheets, by key; may be changed at any time.
        requests: each received request, as method and path without its query.
        instead: responses to the next requests to the API, in order, in place of the regular ones.
        token_instead: the same for the token endpoint.
        release: requests to the API wait until this event is set; it is set initially.
    """

    def __init__(self, *, key_size: int = 2048) -> None:
        self.books: dict[str, Book] = {}
        self.requests: list[str] = []
        self.instead: deque[Answer] = deque()
        self.token_instead: deque[Answer] = deque()
        self.release = threading.Event()
        self.release.set()
        self._private = rsa.generate_private_key(public_exponent=65537, key_size=key_size)
        self._accounts: set[str] = set()
        self._tokens: dict[str, str] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"sheets": self}))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """URL for a silo's ``endpoint``."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def account(self, name: str) -> dict[str, str]:
        """Make a service account. Return the contents of its key file."""
        email = f"{name}@example.iam.gserviceaccount.com"
        self._accounts.add(email)
        pem = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": "example",
            "private_key_id": secrets.token_hex(20),
            "private_key": pem.decode(),
            "client_email": email,
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }

    def save_account(self, name: str, path: Path) -> str:
        """Write the file of a new service account's key, readable by its owner only; return the account's address."""
        account = self.account(name)
        path.touch(mode=0o600)
        path.write_text(json.dumps(account, indent=2))
        return account["client_email"]

    def remove_account(self, email: str) -> None:
        """Remove a service account and invalidate its tokens."""
        self._accounts.discard(email)
        self._tokens = {token: owner for token, owner in self._tokens.items() if owner != email}

    def token(self, assertion: str) -> Answer:
        """Return a token for the account that signed an assertion."""
        if self.token_instead:
            return self.token_instead.popleft()
        public = self._private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        try:
            email = jwt.decode(assertion, certs=public, audience=_AUDIENCE)["iss"]
        except ValueError:
            return Answer(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
        if email not in self._accounts:
            said = "Invalid grant: account not found"
            return Answer(400, {"error": "invalid_grant", "error_description": said})
        token = secrets.token_urlsafe(24)
        self._tokens[token] = email
        return Answer(200, {"access_token": token, "expires_in": 3599, "token_type": "Bearer"})

    def answer(self, path: str, token: str) -> Answer:
        """Return the response to a request to the API."""
        self.release.wait(60)
        if self.instead:
            return self.instead.popleft()
        match = _VALUES.fullmatch(path)
        if token not in self._tokens:
            return Answer.error(*_NO_TOKEN)
        book = self.books.get(match["key"]) if match else None
        if match is None or book is None:
            return Answer.error(*_UNKNOWN)
        if self._tokens[token] not in book.readers:
            return Answer.error(*_DENIED)
        return _values(book, unquote(match["range"])) if match["range"] else Answer(200, _metadata(match["key"], book))


class _Handler(BaseHTTPRequestHandler):
    """Handler of one request."""

    sheets: SheetsServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body at once
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.sheets.requests.append(f"GET {path}")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self._send(self.sheets.answer(path, token))

    def do_POST(self) -> None:
        self.sheets.requests.append(f"POST {self.path}")
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self._send(self.sheets.token(form["assertion"][0]))

    def _send(self, answer: Answer) -> None:
        body = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in (answer.headers | {"Content-Type": "application/json"}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: ``requests`` records the requests."""


def _metadata(key: str, book: Book) -> dict[str, Any]:
    sheets = [
        {"properties": {"sheetId": at, "title": title, "index": at, "sheetType": "GRID"}}
        for at, title in enumerate(book.sheets)
    ]
    return {"spreadsheetId": key, "properties": {"title": "a book", "locale": "en_GB"}, "sheets": sheets}


def _values(book: Book, wanted: str) -> Answer:
    """Return the cells of a range as Google sends them: without trailing empty cells and rows."""
    match = _RANGE.fullmatch(wanted)
    title = match["title"].replace("''", "'") if match else ""
    if match is None or title not in book.sheets:
        return Answer.error(400, "INVALID_ARGUMENT", f"Unable to parse range: {wanted}")
    cells = book.sheets[title]
    top, left = _corner(match["from"] or "A1", (1, 1))
    bottom, right = _corner(match["to"] or match["from"] or "", (len(cells), max(map(len, cells), default=1)))
    rows = [_trimmed(row[left - 1 : right]) for row in cells[top - 1 : bottom]]
    while rows and not rows[-1]:
        rows.pop()
    body: dict[str, Any] = {"range": f"'{title}'!{match['from'] or 'A1'}:ZZ1000", "majorDimension": "ROWS"}
    return Answer(200, body | ({"values": rows} if rows else {}))


def _corner(cell: str, default: tuple[int, int]) -> tuple[int, int]:
    """Return row and column of a cell such as ``B3``, with defaults for missing parts."""
    match = _CELL.fullmatch(cell)
    letters, digits = match.groups() if match else ("", "")
    column = 0
    for letter in letters:
        column = column * 26 + ord(letter) - ord("A") + 1
    return int(digits or default[0]), column or default[1]


def _trimmed(row: list[object]) -> list[object]:
    end = len(row)
    while end and row[end - 1] == "":
        end -= 1
    return row[:end]
