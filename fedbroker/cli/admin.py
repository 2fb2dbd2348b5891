"""``fedbroker admin``: users, queues and permissions at the broker, for each silo. Imports admin and the base."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import cyclopts

from fedbroker.cli.common import Cohort, Json, print_json
from fedbroker.errors import UsageError
from fedbroker.trust import Public

if TYPE_CHECKING:
    from fedbroker.admin.broker import LiveBroker, Target
    from fedbroker.admin.enrolment import Handed, Office

__all__ = ["app"]

VHOST: Final = "fedbroker"

Api = Annotated[
    str | None,
    cyclopts.Parameter(help="Address of the management API, without a password; that of the login if not given."),
]
Vhost = Annotated[str | None, cyclopts.Parameter(help="Virtual host; the one of `init`, or `fedbroker`, if not given.")]
Out = Annotated[Path, cyclopts.Parameter(help="The administrator's directory, where secrets are written.")]
Broker = Annotated[
    str | None,
    cyclopts.Parameter(
        help="The broker's URL as silos see it, without user and password; the one of `init`, or amqps:// and the "
        "management API's host, if not given."
    ),
]
File = Annotated[
    Path | None,
    cyclopts.Parameter(help="Write definitions for `rabbitmqctl import_definitions` here, and call nobody."),
]
Force = Annotated[bool, cyclopts.Parameter(negative="", help="Replace what is there already.")]
Silo = Annotated[str, cyclopts.Parameter(help="The silo's name.")]

OUT: Final = Path("fedbroker-admin")

app = cyclopts.App(
    name="admin",
    help="Users, queues and permissions at the broker, made for each silo before it comes. The login for the "
    "management API, https://admin:password@broker.example:15671, is in FEDBROKER_ADMIN_URL, or in a file that "
    "FEDBROKER_ADMIN_URL_FILE names.",
    help_format="plaintext",
)

_INIT = """Examples:
  export FEDBROKER_ADMIN_URL_FILE=admin.url
  fedbroker admin init --broker amqps://broker.example/
  fedbroker admin init --broker amqps://broker.example/ --certificates
  fedbroker admin init --coordinator nightly     one more coordinator
  fedbroker admin init --broker amqps://broker.example/ --definitions init.json"""

_ENROLL = """Examples:
  fedbroker admin enroll ewr --cohort airports
  fedbroker admin enroll ewr --cohort airports --certificate
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
    api: Api = None,
    vhost: Vhost = None,
    coordinator: Annotated[str, cyclopts.Parameter(help="The coordinator's user.")] = "coordinator",
    broker: Broker = None,
    out: Out = OUT,
    certificates: Annotated[
        bool, cyclopts.Parameter(negative="", help="Make an authority for silos' certificates, too.")
    ] = False,
    definitions: File = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Make a virtual host ready: exchanges, policies, and a coordinator's user, with its URL and key pair.

    With --certificates there is an authority for silos' certificates, too: have the broker trust its ca.pem.
    """
    with _office(api, vhost, broker, out, definitions, force) as (office, target):
        _say(office.init(target, coordinator, certificates=certificates), json)


@app.command(help_epilogue=_ENROLL)
def enroll(
    silo: Silo,
    /,
    *,
    cohort: Cohort,
    api: Api = None,
    vhost: Vhost = None,
    broker: Broker = None,
    out: Out = OUT,
    certificate: Annotated[
        bool, cyclopts.Parameter(negative="", help="A client certificate instead of a password.")
    ] = False,
    public_key: Annotated[
        str | None,
        cyclopts.Parameter(
            help="What `fedbroker-silo key` printed at the silo: its secret then never leaves it. One is made here if "
            "not given."
        ),
    ] = None,
    definitions: File = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Make a silo's user, queues and permissions, and the directory to hand over: a ready `silo.toml`, and its keys.

    The silo may read its own queues and speak for itself, and configure nothing.
    """
    public = None if public_key is None else Public.parse(public_key)
    with _office(api, vhost, broker, out, definitions, force) as (office, target):
        _say(office.enroll(target, cohort, silo, certificate=certificate, public=public), json)


@app.command(help_epilogue=_ROTATE)
def rotate(
    silo: Silo,
    /,
    *,
    cohort: Cohort,
    api: Api = None,
    vhost: Vhost = None,
    broker: Broker = None,
    out: Out = OUT,
    definitions: File = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Give a silo a new password or certificate, in its `silo.toml`; the old one is refused at once.

    Its connections are closed, its key pair stays. With --definitions they are not
    closed: close them at the broker.
    """
    with _office(api, vhost, broker, out, definitions, force) as (office, target):
        _say(office.rotate(target, cohort, silo), json)


@app.command(help_epilogue=_REVOKE)
def revoke(
    silo: Silo, /, *, cohort: Cohort, api: Api = None, vhost: Vhost = None, out: Out = OUT, json: Json = False
) -> None:
    """Take a silo's user and queues away; its connections are closed at once. Its files stay."""
    with _office(api, vhost, None, out, None, False) as (office, target):
        users = office.revoke(_live(target), cohort, silo)
    if json:
        print_json({"cohort": cohort, "silo": silo, "users": users})
    else:
        print(f"revoked {', '.join(users)}")


@app.command(name="list", help_epilogue=_LIST)
def list_(
    *,
    cohort: Annotated[str | None, cyclopts.Parameter(help="Of this cohort only.")] = None,
    api: Api = None,
    vhost: Vhost = None,
    out: Out = OUT,
    json: Json = False,
) -> None:
    """List the silos that are enrolled, and how many connections each has now: two, while it runs."""
    from fedbroker.cli.common import console, table

    with _office(api, vhost, None, out, None, False) as (_, target):
        silos = _live(target).silos(cohort)
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
def _office(
    api: str | None, vhost: str | None, broker: str | None, out: Path, definitions: Path | None, force: bool
) -> Iterator[tuple[Office, Target]]:
    """Who makes logins, and what takes them: the management API, or a file."""
    from fedbroker.admin.api import Management
    from fedbroker.admin.broker import ByFile, LiveBroker
    from fedbroker.admin.enrolment import Office
    from fedbroker.admin.folder import Folder
    from fedbroker.admin.handout import PublicUrl
    from fedbroker.admin.login import admin_login

    folder = Folder(out)
    kept = folder.remembered
    vhost = vhost or kept.get("vhost", VHOST)
    broker = broker or kept.get("broker")
    if definitions is not None:
        if api is not None:
            raise UsageError("--definitions and --api are both given", hint="give one of them")
        if broker is None:
            raise UsageError(
                "nothing says what the broker's URL is", hint="give --broker amqps://broker.example/, without a login"
            )
        yield Office(folder, PublicUrl.parse(broker), vhost, force=force), ByFile(definitions, force=force)
        return
    login = admin_login(api)
    with Management(login) as management:
        public = PublicUrl.parse(broker or f"amqps://{login.host}/")
        yield Office(folder, public, vhost, force=force), LiveBroker(management, vhost)


def _live(target: Target) -> LiveBroker:
    from fedbroker.admin.broker import LiveBroker

    assert isinstance(target, LiveBroker)  # without --definitions it is
    return target


def _say(handed: Handed, json: bool) -> None:
    if json:
        public = None if handed.public is None else str(handed.public)
        print_json({"user": handed.user, "directory": str(handed.directory), "public": public})
        return
    print(f"user {handed.user}: see {handed.directory}")
    if handed.public is not None:
        print(handed.public)
