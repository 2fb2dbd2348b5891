"""The command ``fedbroker-silo board``: a page for the silo's administrator, on this machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fedbroker.web.listen import Access, Address, check_installed, token_from
from fedbroker_worker.cli.control import places

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["serve_page"]

TOKEN = "FEDBROKER_SILO_BOARD_TOKEN"  # a variable's name, no token  # nosec B105
"""The environment variable with the page's token; ``…_FILE`` names a file with it."""


def serve_page(config: Path, listen: str, *, socket: Path | None = None, hosts: Sequence[str] = ()) -> None:
    """Serve the page until SIGTERM or Ctrl-C.

    Args:
        config: the silo's settings.
        listen: ``HOST:PORT``.
        socket: the control socket of its service; None for the one of the settings.
        hosts: names under which a proxy serves the page.

    Raises:
        ConfigError: the address cannot be used, the token is too short, or the extra ``board`` is not installed.
        SettingsError: the settings cannot be read.
    """
    check_installed()
    address = Address.parse(listen)
    access = Access.to(address, hosts, token_from(TOKEN))
    asyncio.run(_serve(places(config, socket), address, access))


async def _serve(found: Sequence[Path], address: Address, access: Access) -> None:
    from fedbroker.web.serve import serving, stop_on_signals
    from fedbroker_worker.board.app import SiloPage

    stop = stop_on_signals()
    page = SiloPage(found, access)
    async with serving(page.app, address) as listening, asyncio.TaskGroup() as group:
        tasks = [group.create_task(page.follower.run()), group.create_task(page.feed.run())]
        query = f"?token={access.token}" if access.token else ""
        print(f"http://{listening.netloc}/{query}", flush=True)
        await stop.wait()
        for task in tasks:
            task.cancel()
