"""Google's errors, each as one line that says who can solve it and how."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import gspread
import requests
from google.auth.exceptions import GoogleAuthError, RefreshError

from fedbroker_worker.errors import SourceError
from fedbroker_worker.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.oauth2.service_account import Credentials

__all__ = ["Place", "google_errors"]


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
def google_errors(place: Place, credentials: Credentials) -> Iterator[None]:
    """Convert the exceptions of gspread and google-auth to a SourceError that says who can solve it and how."""
    try:
        yield
    except gspread.exceptions.WorksheetNotFound:
        by_title = isinstance(place.worksheet, str)
        what = f"the spreadsheet has no worksheet {place.worksheet!r}" if by_title else "there is no such worksheet"
        raise SourceError(
            place.source, what, hint=f"correct 'worksheet' in [data.{place.source}]", problem=Problem.MISCONFIGURED
        ) from None
    except gspread.exceptions.APIError as error:
        raise _refused(place, credentials, error) from None
    except (PermissionError, gspread.exceptions.SpreadsheetNotFound) as error:
        raise _refused(place, credentials, error.__cause__) from None
    except RefreshError as error:
        said = " ".join(str(error.args[0] if error.args else error).split())
        what = f"Google gives {credentials.service_account_email} no token: {said}"
        hint = (
            "see that the service account is not disabled and this machine's clock is right, or make a new key for it"
        )
        raise SourceError(place.source, what, hint=hint, problem=Problem.UNAUTHORISED) from None
    except (requests.RequestException, GoogleAuthError) as error:
        # Their message is left out, because it holds the spreadsheet's key.
        where = "the address that gives tokens" if isinstance(error, GoogleAuthError) else place.endpoint
        what = f"{where} cannot be reached ({type(error).__name__})"
        raise SourceError(
            place.source, what, hint="see what blocks the way (a firewall, a proxy?)", problem=Problem.UNREACHABLE
        ) from None


def _refused(place: Place, credentials: Credentials, error: BaseException | None) -> SourceError:
    """Return Google's answer as a SourceError."""
    if not isinstance(error, gspread.exceptions.APIError):
        return SourceError(place.source, f"Google Sheets failed ({type(error).__name__})", problem=Problem.UNREADABLE)
    status = error.response.status_code
    said = " ".join(str(error.error.get("message", "")).split()).replace(place.key, "…")
    problem = Problem.UNAUTHORISED
    match status:
        case HTTPStatus.FORBIDDEN if "SERVICE_DISABLED" in str(error.error.get("details", "")):
            what = "the Google Sheets API is not enabled in the service account's project"
            hint = "enable it there, in Google's console, and wait some minutes"
        case HTTPStatus.FORBIDDEN:
            what = f"the spreadsheet is not shared with {credentials.service_account_email}"
            hint = "share it with that address; to view is enough"
        case HTTPStatus.NOT_FOUND:
            problem = Problem.MISCONFIGURED
            what = "there is no spreadsheet of that key"
            hint = f"correct 'spreadsheet' in [data.{place.source}]: its URL, or what is between /d/ and /edit there"
        case HTTPStatus.BAD_REQUEST:
            problem = Problem.MISCONFIGURED
            what = f"Google refuses the range {place.range!r}: {said}"
            hint = f"correct 'range' in [data.{place.source}]"
        case HTTPStatus.TOO_MANY_REQUESTS:
            problem = Problem.BUSY
            what = "Google's quota of requests is used up"
            hint = "raise 'ttl', or the project's quota of read requests"
        case HTTPStatus.UNAUTHORIZED:
            what = f"Google refuses what {credentials.service_account_email} shows: {said}"
            hint = "make a new key for the service account"
        case _:
            problem = Problem.UNREACHABLE
            what = f"Google Sheets answered {status}: {said}"
            hint = "try again later"
    return SourceError(place.source, what, hint=hint, problem=problem)
