"""``fedbroker admin``: silos' users, queues and permissions at the broker."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import cyclopts

from fedbroker.cli.common import ADMIN_DIRECTORY, AdminDirectory, Cohort, Json, print_json
from fedbroker.cli.roster import EXAMPLES, print_roster_note, roster
from fedbroker.errors import UsageError

if TYPE_CHECKING:
    from fedbroker.admin.broker import LiveBroker, Target
    from fedbroker.admin.enrolment import Enrolment, Handout
    from fedbroker.admin.files import Folder

__all__ = ["app"]

VHOST: Final = "fedbroker"


@cyclopts.Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class _Location:
    """Options of every command: where logins are stored, at the broker and on this machine."""

    api: Annotated[
        str | None,
        cyclopts.Parameter(help="Address of the management API, without a password. Default: the login's address."),
    ] = None
    vhost: Annotated[
        str | None, cyclopts.Parameter(help="Virtual host. Default: the one that `init` saved, or `fedbroker`.")
    ] = None
    out: AdminDirectory = ADMIN_DIRECTORY


@cyclopts.Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class _Making(_Location):
    """Options of commands that make logins."""

    broker: Annotated[
        str | None,
        cyclopts.Parameter(
            help="The broker's URL as silos see it, without user and password. Default: the one that `init` saved, or "
            "amqps:// and the management API's host."
        ),
    ] = None
    definitions: Annotated[
        Path | None,
        cyclopts.Parameter(
            help="Write definitions for `rabbitmqctl import_definitions` into this file; connect to no broker."
        ),
    ] = None
    force: Annotated[bool, cyclopts.Parameter(negative="", help="Replace existing users and files.")] = False


Silo = Annotated[str, cyclopts.Parameter(help="The silo's name.")]

app = cyclopts.App(name="admin", help_format="plaintext")

_INIT = """Examples:
  export FEDBROKER_ADMIN_URL_FILE=admin.url
  fedbroker admin init --broker amqps://broker.example/
  fedbroker admin init --broker amqps://broker.example/ --certificates
  fedbroker admin init --coordinator nightly     adds a coordinator
  fedbroker admin init --broker amqps://broker.example/ --definitions init.json"""

_ENROLL = """Examples:
  fedbroker admin enroll ewr --cohort airports
  fedbroker admin enroll ewr --cohort airports --certificate
  fedbroker admin enroll ewr --cohort airports --replicated
  fedbroker admin enroll ewr --cohort airports --definitions ewr.json"""

_ROTATE = """Examples:
  fedbroker admin rotate ewr --cohort airports"""

_REVOKE = """Examples:
  fedbroker admin revoke ewr --cohort airports"""

_BOARD = """Examples:
  fedbroker admin board
  fedbroker admin board airports-board --cohort airports
  fedbroker admin board --definitions board.json"""

_LIST = """Examples:
  fedbroker admin list
  fedbroker admin list --cohort airports --json | jq -r '.[] | select(.connections == 0).silo'"""


@app.command(help_epilogue=_INIT)
def init(
    *,
    coordinator: Annotated[str, cyclopts.Parameter(help="Name of the coordinator's user.")] = "coordinator",
    certificates: Annotated[
        bool, cyclopts.Parameter(negative="", help="Also make an authority for silos' certificates.")
    ] = False,
    making: _Making = _Making(),
    json: Json = False,
) -> None:
    """Prepare a virtual host, and make a coordinator's user.

    Makes the virtual host with its exchanges and policies, the user, a file with
    the coordinator's broker URL, and its key pair. With --certificates, also an
    authority for silos' certificates; the broker must trust its ca.pem.
    """
    with _enrolment(making) as (enrolment, target):
        made = enrolment.init(target, coordinator, certificates=certificates)
        _print_handout(
            made,
            json,
            "next: `fedbroker admin enroll SILO --cohort COHORT` for each silo",
            f"then hand {made.directory} to the user of the programs, whose environment gets",
            "    FEDBROKER_URL_FILE=.../broker.url  FEDBROKER_KEYS=.../COHORT.keys.toml",
        )


@app.command(help_epilogue=_BOARD)
def board(
    name: Annotated[str, cyclopts.Parameter(help="Name of the board's user.")] = "board",
    /,
    *,
    cohort: Annotated[
        tuple[str, ...],
        cyclopts.Parameter(negative="", help="Let it see this cohort only; may be repeated. Default: all."),
    ] = (),
    making: _Making = _Making(),
    json: Json = False,
) -> None:
    """Make a read-only user for `fedbroker board serve`.

    It may read silos' announcements and coordinators' events, and the number of
    dead letters. It can publish nothing and read no work, reply or result.
    """
    with _enrolment(making) as (enrolment, target):
        made = enrolment.board(target, name, cohort)
        _print_handout(
            made,
            json,
            f"next: FEDBROKER_URL_FILE={made.directory}/broker.url fedbroker board serve"
            + "".join(f" --cohort {one}" for one in cohort),
        )


@app.command(help_epilogue=_ENROLL)
def enroll(
    silo: Silo,
    /,
    *,
    cohort: Cohort,
    certificate: Annotated[
        bool, cyclopts.Parameter(negative="", help="Make a client certificate instead of a password.")
    ] = False,
    replicated: Annotated[
        bool,
        cyclopts.Parameter(
            negative="",
            help="Replicate all of its queues on a RabbitMQ cluster, so that the silo survives the loss of a node. "
            "Large values then take about twice as long to reach it. Its work queue is always replicated.",
        ),
    ] = False,
    public_key: Annotated[
        str | None,
        cyclopts.Parameter(
            help="The public key that `fedbroker-silo key` printed at the silo, so that its secret never leaves the "
            "silo. Default: make a key pair here."
        ),
    ] = None,
    making: _Making = _Making(),
    json: Json = False,
) -> None:
    """Make a silo's user, queues and permissions, and its `silo.toml`.

    Prints the directory to hand over to the silo's owner: `silo.toml`, complete
    except for data sources, and the silo's keys. The silo may read its own queues
    and publish under its own name. It may configure nothing.
    """
    from fedbroker.trust import Public

    public = None if public_key is None else Public.parse(public_key)
    with _enrolment(making) as (enrolment, target):
        made = enrolment.enroll(target, cohort, silo, certificate=certificate, replicated=replicated, public=public)
        _print_handout(
            made,
            json,
            f"next: hand {made.directory} to the silo's administrator, in private: it holds the silo's password",
            "    there: add data sources to silo.toml, then `fedbroker-silo check`, and `run` or `install`",
            f"{cohort}.keys.toml of each coordinator has the silo's public key: give its programs the new file",
        )


@app.command(help_epilogue=_ROTATE)
def rotate(
    silo: Silo,
    /,
    *,
    cohort: Cohort,
    making: _Making = _Making(),
    json: Json = False,
) -> None:
    """Replace a silo's password or certificate, also in its `silo.toml`.

    The broker rejects the old login at once, and closes the silo's connections.
    The silo's key pair stays. With --definitions, connections stay open: close
    them at the broker.
    """
    with _enrolment(making) as (enrolment, target):
        made = enrolment.rotate(target, cohort, silo)
        _print_handout(
            made,
            json,
            f"the old login is refused now; next: hand {made.directory} to the silo's administrator, in private,",
            "    who takes over `broker` of silo.toml and the certificate's files, if any, and restarts the silo",
        )


@app.command(help_epilogue=_REVOKE)
def revoke(silo: Silo, /, *, cohort: Cohort, place: _Location = _Location(), json: Json = False) -> None:
    """Delete a silo's user and queues; the broker closes its connections.

    The silo's files in the administrator's directory stay. Its public key is
    removed from the coordinators' files, and from the cohort's roster: copy the
    new one to the other silos.
    """
    with _live(place) as (enrolment, broker):
        revoked = enrolment.revoke(broker, cohort, silo)
    if json:
        file = None if revoked.roster is None else str(revoked.roster.path)
        print_json({"cohort": cohort, "silo": silo, "users": revoked.users, "roster": file})
    else:
        print(f"revoked {', '.join(revoked.users)}: the broker refuses the login, and has deleted the queues")
        print(f"{cohort}.keys.toml of each coordinator no longer has the silo: give its programs the new file")
        print_roster_note(revoked.roster)


app.command(roster, help_epilogue=EXAMPLES)


@app.command(name="list", help_epilogue=_LIST)
def list_(
    *,
    cohort: Annotated[str | None, cyclopts.Parameter(help="List the silos of this cohort only.")] = None,
    place: _Location = _Location(),
    json: Json = False,
) -> None:
    """List the enrolled silos, with their connections: a running silo has two."""
    from fedbroker.cli.common import console, table

    with _live(place) as (_, broker):
        silos = broker.silos(cohort)
    rows = [
        {
            "cohort": silo.user.cohort,
            "silo": silo.user.silo,
            "user": str(silo.user),
            "login": "certificate" if silo.certificate else "password",
            "connections": silo.connections,
        }
        for silo in silos
    ]
    if json:
        print_json(rows)
    elif rows:
        shown = table(*rows[0], right=("connections",))
        for row in rows:
            shown.add_row(*map(str, row.values()))
        console().print(shown)
    else:
        print("no silo is enrolled")


@contextlib.contextmanager
def _enrolment(making: _Making) -> Generator[tuple[Enrolment, Target]]:
    """Yield the enrolment, and the target of its definitions: the management API or a file."""
    from fedbroker.admin.broker import ByFile
    from fedbroker.admin.enrolment import Enrolment
    from fedbroker.admin.files import Folder, PublicUrl

    if making.definitions is None:
        with _live(making, making.broker, force=making.force) as live:
            yield live
        return
    if making.api is not None:
        raise UsageError("--definitions and --api exclude each other", hint="omit one of them")
    folder = Folder(making.out)
    vhost, broker = _remembered(folder, making.vhost, making.broker)
    if broker is None:
        raise UsageError("the broker's URL is missing", hint="give --broker amqps://broker.example/, without a login")
    enrolment = Enrolment(folder, PublicUrl.parse(broker), vhost, force=making.force)
    yield enrolment, ByFile(making.definitions, force=making.force)


@contextlib.contextmanager
def _live(
    place: _Location, broker: str | None = None, *, force: bool = False
) -> Generator[tuple[Enrolment, LiveBroker]]:
    """Yield the enrolment, and the broker behind its management API."""
    from fedbroker.admin.api import Management, admin_login
    from fedbroker.admin.broker import LiveBroker
    from fedbroker.admin.enrolment import Enrolment
    from fedbroker.admin.files import Folder, PublicUrl

    folder = Folder(place.out)
    vhost, broker = _remembered(folder, place.vhost, broker)
    login = admin_login(place.api)
    with Management(login) as management:
        public = PublicUrl.parse(broker or f"amqps://{login.host}/")
        yield Enrolment(folder, public, vhost, force=force), LiveBroker(management, vhost)


def _remembered(folder: Folder, vhost: str | None, broker: str | None) -> tuple[str, str | None]:
    """Return the given virtual host and broker, or those saved by an earlier command."""
    saved = folder.remembered
    return vhost or saved.get("vhost", VHOST), broker or saved.get("broker")


def _print_handout(handout: Handout, json: bool, *notes: str) -> None:
    """Print the made user and its files, and what to do with them; as JSON without the notes."""
    if json:
        path = None if handout.roster is None else handout.roster.path
        made = {"public": handout.public, "roster_key": handout.roster_key, "roster": path}
        shown = {name: None if value is None else str(value) for name, value in made.items()}
        print_json({"user": handout.user, "directory": str(handout.directory), **shown})
        return
    print(f"user {handout.user}: see {handout.directory}")
    if handout.public is not None:
        print(f"public key: {handout.public}")
    if handout.roster_key is not None:
        print(f"roster key: {handout.roster_key}")
    for note in notes:
        print(note)
    print_roster_note(handout.roster)
