"""``fedbroker board``: a page of cohorts, sessions and curves in a browser."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import TYPE_CHECKING, Annotated, Final

import cyclopts

from fedbroker.cli.common import Json, Url, print_json
from fedbroker.log import configure

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedbroker.web.listen import Access, Address

__all__ = ["app"]

app = cyclopts.App(name="board", help_format="plaintext")

TOKEN: Final = "FEDBROKER_BOARD_TOKEN"
ANY: Final = ("0.0.0.0", "::")  # only compared with  # nosec B104

_SERVE = """Examples:
  export FEDBROKER_URL_FILE=board/broker.url       of `fedbroker admin board`
  fedbroker board serve
  fedbroker board serve --cohort airports --cohort hospitals
  fedbroker board serve --listen 0.0.0.0:8080      prints a URL with a token
  fedbroker board serve --host board.example       behind a proxy on this machine"""


@app.command(help_epilogue=_SERVE)
def serve(
    *,
    url: Url,
    listen: Annotated[
        str, cyclopts.Parameter(help="HOST:PORT. Other than loopback addresses need a token.")
    ] = "127.0.0.1:8080",
    cohort: Annotated[
        tuple[str, ...], cyclopts.Parameter(negative="", help="Show this cohort only; may be repeated.")
    ] = (),
    host: Annotated[
        tuple[str, ...],
        cyclopts.Parameter(negative="", help="Host name of a proxy in front; may be repeated. Needs a token, too."),
    ] = (),
    json: Json = False,
) -> None:
    """Serve a read-only page of cohorts, sessions and curves until Ctrl-C or SIGTERM.

    Follows the broker and publishes nothing. Prints the page's URL. Where other
    machines can connect, the page needs a token: that in FEDBROKER_BOARD_TOKEN, or
    in the file that FEDBROKER_BOARD_TOKEN_FILE names, or else a new one, which the
    printed URL contains. TLS is for a proxy in front of it. Every view is also
    JSON: see /api/state. With --json, prints the URL as JSON.
    """
    from fedbroker.web.listen import Access, Address, check_installed, token_from

    configure("auto", "warning")
    check_installed()
    address = Address.parse(listen)
    given = token_from(TOKEN)
    access = Access.to(address, host, given)

    def ready(at: Address) -> None:
        name = f"{socket.gethostname()}:{at.port}" if at.host in ANY else at.netloc
        page = f"http://{name}/" + (f"?token={access.token}" if access.token and not given else "")
        if json:
            print_json({"url": page})
        else:
            print(f"board: {page}", file=sys.stderr, flush=True)

    asyncio.run(_serve(url, cohort, address, access, ready))


async def _serve(
    url: str, cohorts: tuple[str, ...], address: Address, access: Access, ready: Callable[[Address], None]
) -> None:
    from fedbroker.board.serve import Board
    from fedbroker.web.serve import stop_on_signals

    stop = stop_on_signals()
    await Board(url, cohorts, address, access).serve(ready, stop)
