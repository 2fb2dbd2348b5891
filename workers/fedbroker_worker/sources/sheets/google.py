"""Requests to Google Sheets through gspread, repeated while Google is busy."""

from __future__ import annotations

import json
import random
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

import gspread
import requests
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from google.auth.transport.requests import Request
from google.oauth2.service_account import Credentials
from gspread.http_client import HTTPClient
from gspread.urls import SPREADSHEETS_API_V4_BASE_URL
from gspread.utils import DateTimeOption, ValueRenderOption

from fedbroker.narrowing import is_dict
from fedbroker_worker.errors import Problem, SettingsError, SourceError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from fedbroker_worker.threads import Call


__all__ = ["GOOGLE", "Cells", "Place", "fetch", "service_account"]

GOOGLE: Final = "https://sheets.googleapis.com"

_SCOPE: Final = "https://www.googleapis.com/auth/spreadsheets.readonly"
_TIMEOUT: Final = 30.0
"""Seconds without any answer after which a request counts as failed."""

# The pause doubles with each try, from about a second to about a minute, because quotas are per minute. Google may
# name a pause itself, even of 0 seconds.
_TRIES: Final = 8
_FIRST_PAUSE: Final = 1.0
_LEAST_PAUSE: Final = 0.05

_BUSY: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_CORNER: Final = re.compile(r"(?:.*!)?\$?([A-Z]*)\$?(\d*)(?::.*)?")


@dataclass(frozen=True, slots=True)
class Place:
    """The place of the rows in Google Sheets.

    Attributes:
        source: the source's name, for errors.
        key: the spreadsheet's key, a secret: if the spreadsheet is shared by link, the key is enough to read it.
        worksheet: its title, or its number in URLs (``gid``); None for the first one.
        range: the range in A1 notation; None for the whole worksheet.
        endpoint: the URL of the API.
        patience: seconds for which requests to a busy server are repeated.
    """

    source: str
    key: str
    worksheet: str | int | None
    range: str | None
    endpoint: str
    patience: float


@contextmanager
def google_errors(place: Place, credentials: Credentials) -> Generator[None]:
    """Convert the exceptions of gspread and google-auth to a SourceError that says who can solve it and how."""
    try:
        yield
    except gspread.exceptions.WorksheetNotFound:
        by_title = isinstance(place.worksheet, str)
        what = f"the spreadsheet has no worksheet {place.worksheet!r}" if by_title else "the worksheet does not exist"
        raise SourceError(
            place.source, what, hint=f"correct 'worksheet' in [data.{place.source}]", problem=Problem.MISCONFIGURED
        ) from None
    except gspread.exceptions.APIError as error:
        raise _refused(place, credentials, error) from None
    except (PermissionError, gspread.exceptions.SpreadsheetNotFound) as error:
        raise _refused(place, credentials, error.__cause__) from None
    except RefreshError as error:
        message = " ".join(str(error.args[0] if error.args else error).split())
        what = f"Google gives {credentials.service_account_email} no token: {message}"
        hint = "check that the service account is enabled and this machine's clock is right, or make a new key for it"
        raise SourceError(place.source, what, hint=hint, problem=Problem.UNAUTHORISED) from None
    except (requests.RequestException, GoogleAuthError) as error:
        # Their message is left out, because it holds the spreadsheet's key.
        where = "the address that gives tokens" if isinstance(error, GoogleAuthError) else place.endpoint
        what = f"{where} cannot be reached ({type(error).__name__})"
        raise SourceError(place.source, what, hint="check firewalls and proxies", problem=Problem.UNREACHABLE) from None


def _refused(place: Place, credentials: Credentials, error: BaseException | None) -> SourceError:
    """Return Google's answer as a SourceError."""
    if not isinstance(error, gspread.exceptions.APIError):
        return SourceError(place.source, f"Google Sheets failed ({type(error).__name__})", problem=Problem.UNREADABLE)
    status = error.response.status_code
    message = " ".join(str(error.error.get("message", "")).split()).replace(place.key, "…")
    problem = Problem.UNAUTHORISED
    match status:
        case HTTPStatus.FORBIDDEN if "SERVICE_DISABLED" in str(error.error.get("details", "")):
            what = "the Google Sheets API is not enabled in the service account's project"
            hint = "enable it there, in Google's console, and wait some minutes"
        case HTTPStatus.FORBIDDEN:
            what = f"the spreadsheet is not shared with {credentials.service_account_email}"
            hint = "share it with that address, to view"
        case HTTPStatus.NOT_FOUND:
            problem = Problem.MISCONFIGURED
            what = "the spreadsheet does not exist"
            hint = f"correct 'spreadsheet' in [data.{place.source}]: its URL, or what is between /d/ and /edit there"
        case HTTPStatus.BAD_REQUEST:
            problem = Problem.MISCONFIGURED
            what = f"Google refuses the range {place.range!r}: {message}"
            hint = f"correct 'range' in [data.{place.source}]"
        case HTTPStatus.TOO_MANY_REQUESTS:
            problem = Problem.BUSY
            what = "Google's quota of requests is used up"
            hint = "raise 'ttl', or the project's quota of read requests"
        case HTTPStatus.UNAUTHORIZED:
            what = f"Google rejects the credentials of {credentials.service_account_email}: {message}"
            hint = "make a new key for the service account"
        case _:
            problem = Problem.UNREACHABLE
            what = f"Google Sheets answered {status}: {message}"
            hint = "try again later"
    return SourceError(place.source, what, hint=hint, problem=problem)


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of a range: its rows, and the row and column in the sheet of its first cell."""

    rows: Sequence[Sequence[object]]
    corner: tuple[int, int]


def service_account(label: str, text: str) -> Credentials:
    """Return the credentials in a service account's JSON file.

    Raises:
        SettingsError: the file is not such a key; the error quotes nothing of it.
    """
    hint = "download a key of the type JSON for the service account"
    try:
        info = json.loads(text)
    except ValueError:
        raise SettingsError(f"{label} is not JSON", hint=hint) from None
    if not is_dict(info) or info.get("type") != "service_account":
        raise SettingsError(f"{label} is not the key of a service account", hint=hint)
    try:
        return _from_info(info)
    except (ValueError, TypeError, AttributeError):
        what = f"{label} is damaged: it lacks client_email, token_uri or a private key"
        raise SettingsError(what, hint=hint) from None


def _from_info(info: dict[str, Any]) -> Credentials:
    return cast("Credentials", Credentials.from_service_account_info(info, scopes=[_SCOPE]))  # type: ignore[no-untyped-call]


def fetch(place: Place, credentials: Credentials, call: Call) -> Cells:
    """Fetch the unformatted cells of a range: numbers, truth values, text; dates as numbers of days.

    Raises:
        SourceError: Google cannot be reached or refuses; the error says who can solve it and how.
    """
    with google_errors(place, credentials):
        with requests.Session() as session:
            http = _PatientClient(session, credentials, place, call)
            client = gspread.Client(cast("Any", None), session, cast("Any", lambda *_: http))  # pyright: ignore[reportUnknownLambdaType]
            book = client.open_by_key(place.key)
            values = _worksheet(book, place.worksheet).get(
                place.range,
                value_render_option=ValueRenderOption.unformatted,
                date_time_render_option=DateTimeOption.serial_number,
            )
        return Cells(values, _corner(cast("Any", values).range))


def _worksheet(book: gspread.Spreadsheet, which: str | int | None) -> gspread.Worksheet:
    match which:
        case None:
            return book.get_worksheet(0)
        case int():
            return book.get_worksheet_by_id(which)
        case _:
            return book.worksheet(which)


class _PatientClient(HTTPClient):
    """gspread's client, with retries while the server is busy, and with a configurable endpoint.

    It requests its tokens itself: google-auth's own session would also ask a third server of Google, in the background,
    about where the account may be used, and a firewall would have to allow that.
    """

    def __init__(self, session: requests.Session, credentials: Credentials, place: Place, call: Call) -> None:
        super().__init__(cast("Any", None), session)
        self.set_timeout(_TIMEOUT)
        self._credentials = credentials
        self._refreshed = False
        self._place = place
        self._call = call
        self._until = time.monotonic() + place.patience

    def request(self, method: str, endpoint: str, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        base = self._place.endpoint.rstrip("/") + SPREADSHEETS_API_V4_BASE_URL.removeprefix(GOOGLE)
        url = base + endpoint.removeprefix(SPREADSHEETS_API_V4_BASE_URL)
        for tried in range(1, _TRIES + 1):
            try:
                return self._send(method, url, *args, **kwargs)
            except (gspread.exceptions.APIError, requests.RequestException, TransportError) as error:
                pause = _pause(error, tried)
                late = pause is None or tried == _TRIES or time.monotonic() + pause > self._until
                if late or self._call.pause(pause or 0):
                    raise
        raise AssertionError("the last try returns or raises")

    def _send(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:  # noqa: ANN401
        """Send one request; if Google rejects the token, send it again with a new token, once."""
        if not self._credentials.valid:
            self._refresh_token()
        self.session.headers["Authorization"] = f"Bearer {cast('Any', self._credentials).token}"
        try:
            return super().request(method, url, *args, **kwargs)
        except gspread.exceptions.APIError as error:
            if error.response.status_code != HTTPStatus.UNAUTHORIZED or self._refreshed:
                raise
            self._refresh_token()
            return self._send(method, url, *args, **kwargs)

    def _refresh_token(self) -> None:
        self._refreshed = True
        self._credentials.refresh(partial(Request(self.session), timeout=_TIMEOUT))  # type: ignore[no-untyped-call]


def _pause(error: Exception, tried: int) -> float | None:
    """Return the seconds to wait before the next try; None if another try would not help."""
    # Random, because the silos of one cohort send their requests at the same moment.
    pause = random.uniform(0.5, 1) * _FIRST_PAUSE * float(1 << tried - 1)
    if not isinstance(error, gspread.exceptions.APIError):
        return pause
    status = error.response.status_code
    if status not in _BUSY and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return None
    retry_after = str(error.response.headers.get("Retry-After", ""))
    return max(float(retry_after), _LEAST_PAUSE) if retry_after.isdecimal() else pause


def _corner(range_: str) -> tuple[int, int]:
    """Return row and column of the first cell of a range, such as ``'Flights'!B3:D200``."""
    match = _CORNER.fullmatch(range_)
    letters, digits = match.groups() if match else ("", "")
    column = 0
    for letter in letters:
        column = column * 26 + ord(letter) - ord("A") + 1
    return int(digits or 1), column or 1
