"""``fedbroker admin``: each silo's users, queues and permissions at the broker."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import cyclopts

from fedbroker.cli.common import Cohort, Json, print_json
from fedbroker.errors import UsageError
from fedbroker.trust import Public

if TYPE_CHECKING:
    from fedbroker.admin.broker import LiveBroker, Target
    from fedbroker.admin.enrolment import Enrolment, Handout
    from fedbroker.admin.files import Folder

__all__ = ["app"]

VHOST: Final = "fedbroker"

OUT: Final = Path("fedbroker-admin")


@cyclopts.Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class _Place:
    """Options of every command: where logins are stored, at the broker and on this machine."""

    api: Annotated[
        str | None,
        cyclopts.Parameter(help="Address of the management API, without a password; that of the login if not given."),
    ] = None
    vhost: Annotated[
        str | None, cyclopts.Parameter(help="Virtual host; the one of `init`, or `fedbroker`, if not given.")
    ] = None
    out: Annotated[Path, cyclopts.Parameter(help="The administrator's directory, where secrets are written.")] = OUT


@cyclopts.Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class _Making(_Place):
    """Options of commands that make logins."""

    broker: Annotated[
        str | None,
        cyclopts.Parameter(
            help="The broker's URL as silos see it, without user and password; the one of `init`, or amqps:// and the "
            "management API's host, if not given."
        ),
    ] = None
    definitions: Annotated[
        Path | None,
        cyclopts.Parameter(help="Write definitions for `rabbitmqctl import_definitions` here, and call nobody."),
    ] = None
    force: Annotated[bool, cyclopts.Parameter(negative="", help="Replace what is there already.")] = False


Silo = Annotated[str, cyclopts.Parameter(help="The silo's name.")]

app = cyclopts.App(name="admin", help_format="plaintext")

_INIT = """Examples:
  export FEDBROKER_ADMIN_URL_FILE=admin.url
  fedbroker admin init --broker amqps://broker.example/
  fedbroker admin init --broker amqps://broker.example/ --certificates
  fedbroker admin init --coordinator nightly     one more coordinator
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

_LIST = """Examples:
  fedbroker admin list
  fedbroker admin list --cohort airports --json | jq -r '.[] | select(.connections == 0).silo'"""


@app.command(help_epilogue=_INIT)
def init(
    *,
    coordinator: Annotated[str, cyclopts.Parameter(help="The coordinator's user.")] = "coordinator",
    certificates: Annotated[
        bool, cyclopts.Parameter(negative="", help="Make an authority for silos' certificates, too.")
    ] = False,
    making: _Making = _Making(),
    json: Json = False,
) -> None:
    """Make a virtual host ready: exchanges, policies, and a coordinator's user, with its URL and key pair.

    With --certificates there is an authority for silos' certificates, too: have the broker trust its ca.pem.
    """
    with _enrolment(making) as (enrolment, target):
        _say(enrolment.init(target, coordinator, certificates=certificates), json)


@app.command(help_epilogue=_ENROLL)
def enroll(
    silo: Silo,
    /,
    *,
    cohort: Cohort,
    certificate: Annotated[
        bool, cyclopts.Parameter(negative="", help="A client certificate instead of a password.")
    ] = False,
    replicated: Annotated[
        bool,
        cyclopts.Parameter(
            negative="",
            help="All of its queues are on several nodes of a RabbitMQ cluster, so that the silo outlives the loss of "
            "one; blobs then take about twice as long to get to it. Its work always is.",
        ),
    ] = False,
    public_key: Annotated[
        str | None,
        cyclopts.Parameter(
            help="What `fedbroker-silo key` printed at the silo: its secret then never leaves it. One is made here if "
            "not given."
        ),
    ] = None,
    making: _Making = _Making(),
    json: Json = False,
) -> None:
    """Make a silo's user, queues and permissions, and the directory to hand over: a ready `silo.toml`, and its keys.

    The silo may read its own queues and speak for itself, and configure nothing.
    """
    public = None if public_key is None else Public.parse(public_key)
    with _enrolment(making) as (enrolment, target):
        made = enrolment.enroll(target, cohort, silo, certificate=certificate, replicated=replicated, public=public)
        _say(made, json)


@app.command(help_epilogue=_ROTATE)
def rotate(
    silo: Silo,
    /,
    *,
    cohort: Cohort,
    making: _Making = _Making(),
    json: Json = False,
) -> None:
    """Give a silo a new password or certificate, in its `silo.toml`; the old one is refused at once.

    Its connections are closed, its key pair stays. With --definitions they are not
    closed: close them at the broker.
    """
    with _enrolment(making) as (enrolment, target):
        _say(enrolment.rotate(target, cohort, silo), json)


@app.command(help_epilogue=_REVOKE)
def revoke(silo: Silo, /, *, cohort: Cohort, place: _Place = _Place(), json: Json = False) -> None:
    """Take a silo's user and queues away; its connections are closed at once. Its files stay."""
    with _live(place) as (enrolment, broker):
        users = enrolment.revoke(broker, cohort, silo)
    if json:
        print_json({"cohort": cohort, "silo": silo, "users": users})
    else:
        print(f"revoked {', '.join(users)}")


@app.command(name="list", help_epilogue=_LIST)
def list_(
    *,
    cohort: Annotated[str | None, cyclopts.Parameter(help="Of this cohort only.")] = None,
    place: _Place = _Place(),
    json: Json = False,
) -> None:
    """List the silos that are enrolled, and how many connections each has now: two, while it runs."""
    from fedbroker.cli.common import console, table

    with _live(place) as (_, broker):
        silos = broker.silos(cohort)
    rows = [
        {
            "cohort": one.user.cohort,
            "silo": one.user.silo,
            "user": str(one.user),
            "login": "certificate" if one.certificate else "password",
            "connections": one.connections,
        }
        for one in silos
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
        raise UsageError("--definitions and --api are both given", hint="give one of them")
    folder = Folder(making.out)
    vhost, broker = _remembered(folder, making.vhost, making.broker)
    if broker is None:
        raise UsageError(
            "nothing says what the broker's URL is", hint="give --broker amqps://broker.example/, without a login"
        )
    enrolment = Enrolment(folder, PublicUrl.parse(broker), vhost, force=making.force)
    yield enrolment, ByFile(making.definitions, force=making.force)


@contextlib.contextmanager
def _live(place: _Place, broker: str | None = None, *, force: bool = False) -> Generator[tuple[Enrolment, LiveBroker]]:
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
    kept = folder.remembered
    return vhost or kept.get("vhost", VHOST), broker or kept.get("broker")


def _say(handed: Handout, json: bool) -> None:
    if json:
        public = None if handed.public is None else str(handed.public)
        print_json({"user": handed.user, "directory": str(handed.directory), "public": public})
        return
    print(f"user {handed.user}: see {handed.directory}")
    if handed.public is not None:
        print(handed.public)
