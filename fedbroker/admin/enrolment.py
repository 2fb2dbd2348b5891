"""Enrolment of a cohort's silos: a user, queues and permissions at the broker, and files for the silo's owner.

Existing users and files are replaced only with ``force``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from fedbroker.admin import definitions
from fedbroker.admin.broker import Enrolled, LiveBroker, Target
from fedbroker.admin.certificates import new_authority, signed
from fedbroker.admin.definitions import Definitions, User
from fedbroker.admin.files import SETTINGS, Folder, PublicUrl, read_text, settings, with_broker, write_secret
from fedbroker.admin.rosters import Rosters, SignedRoster
from fedbroker.errors import ConfigError
from fedbroker.trust import Public
from fedbroker.trust.keyring import SECRET
from fedbroker.wire.messages import check_name

__all__ = ["Enrolment", "Handout", "Revoked"]

URL: Final = "broker.url"
BROKER_AUTHORITY: Final = "broker-ca.pem"
CERTIFICATE: Final = "certificate.pem"
KEY: Final = "key.pem"


@dataclass(frozen=True, slots=True)
class Handout:
    """The result of making a user.

    Attributes:
        user: its name at the broker.
        directory: the directory of its files.
        public: its public key; None if it was not changed.
        roster_key: the public key that signs rosters; None if none was made.
        roster: the cohort's new roster; None if it was not changed.
    """

    user: str
    directory: Path
    public: Public | None
    roster_key: Public | None = None
    roster: SignedRoster | None = None


@dataclass(frozen=True, slots=True)
class Revoked:
    """The result of revoking a silo.

    Attributes:
        users: the names of its users.
        roster: the cohort's roster without it; None if the cohort has none.
    """

    users: list[str]
    roster: SignedRoster | None


class Enrolment:
    """Makes and revokes the logins of one virtual host.

    Args:
        folder: where secrets are written.
        broker: the broker's public URL.
        vhost: the virtual host.
        force: replace existing users and files.
    """

    def __init__(self, folder: Folder, broker: PublicUrl, vhost: str, *, force: bool = False) -> None:
        self._folder = folder
        self._broker = broker
        self._vhost = vhost
        self._force = force
        self._rosters = Rosters(folder)

    def init(self, target: Target, coordinator: str, *, certificates: bool = False) -> Handout:
        """Prepare the virtual host, and make a coordinator's user. Can be repeated for another coordinator.

        The first call also makes the key that signs rosters.

        Raises:
            ConfigError: that coordinator exists already, or its files cannot be written.
            BrokerError: the broker does not answer, or refuses.
        """
        directory = self._folder.coordinator(check_name("coordinator", coordinator))
        self._check_free(directory / URL, directory / SECRET)
        if not self._force:
            target.check_new(coordinator)
        password = _password()
        target.load(definitions.for_coordinator(self._vhost, coordinator, password))
        self._folder.remember(vhost=self._vhost, broker=str(self._broker))
        url = self._broker.for_user(coordinator, password, self._vhost, **self._vouched(directory))
        write_secret(directory / URL, f"{url}\n", force=self._force)
        identity = self._folder.identity(directory, force=self._force)
        if certificates and not (self._folder.authority / "ca.pem").exists():
            new_authority(self._folder.authority, force=False)
        return Handout(coordinator, directory, identity.public, self._rosters.make_administrator().public)

    def board(self, target: Target, name: str, cohorts: Sequence[str] = ()) -> Handout:
        """Make a board's user, which reads announcements and events and writes nothing, and the file with its URL.

        Args:
            target: where the user is made.
            name: of the user.
            cohorts: the cohorts that it may see; empty for all of the virtual host.

        Raises:
            ConfigError: a user of that name exists, or the file cannot be written.
            BrokerError: the broker does not answer, or refuses.
        """
        directory = self._folder.board(check_name("board", name))
        names = [check_name("cohort", cohort) for cohort in cohorts]
        self._check_free(directory / URL)
        if isinstance(target, LiveBroker):
            target.check_ready()
        if not self._force:
            target.check_new(name)
        password = _password()
        target.load(definitions.for_board(self._vhost, name, password, names))
        url = self._broker.for_user(name, password, self._vhost, **self._vouched(directory))
        write_secret(directory / URL, f"{url}\n", force=self._force)
        return Handout(name, directory, None)

    def enroll(
        self,
        target: Target,
        cohort: str,
        silo: str,
        *,
        certificate: bool = False,
        replicated: bool = False,
        public: Public | None = None,
    ) -> Handout:
        """Make a silo's user, queues and permissions, its files, and a key pair unless it has one.

        Its cohort gets a new roster.

        Args:
            target: where user and queues are made.
            cohort: its cohort.
            silo: its name.
            certificate: give it a client certificate instead of a password.
            replicated: replicate all of its queues on several nodes of a cluster.
            public: the public key of a secret that the silo made and keeps to itself; None to make a secret for it.

        Raises:
            ConfigError: it is enrolled already, or files cannot be written.
            TopologyMismatch: a silo of this name ran without enrolment, or was enrolled with another ``replicated``.
            BrokerError: the broker does not answer, or refuses.
        """
        directory = self._folder.silo(check_name("cohort", cohort), check_name("silo", silo))
        self._check_free(*(directory / name for name in (SETTINGS, SECRET, CERTIFICATE, KEY)))
        user = User.of_certificate(cohort, silo) if certificate else User(cohort, silo)
        if public is None:
            self._rosters.silos(cohort)  # a roster that was changed must not stop the enrolment halfway
        else:
            self._rosters.check_new(cohort, silo, public)
        existing = self._before(target, user)
        target.check_queues(user, replicated=replicated)
        define = partial(definitions.for_silo, self._vhost, user, replicated=replicated)
        broker = self._login(target, user, directory, certificate, define)
        if isinstance(target, LiveBroker):
            target.drop_users(old_user for old_user in existing if old_user != user)
            target.disconnect(str(user))
        if public is None:
            public = self._folder.identity(directory, force=self._force).public
        coordinators, key = self._folder.coordinators().values(), self._rosters.make_administrator().public
        write_secret(directory / SETTINGS, settings(silo, cohort, broker, coordinators, key), force=self._force)
        roster = self._rosters.sign(cohort, {silo: public})
        self._folder.collect(cohort, silo, public)
        return Handout(str(user), directory, public, key, roster)

    def rotate(self, target: Target, cohort: str, silo: str) -> Handout:
        """Give a silo a new login of the same kind. The old one is refused from now on, and its connections are closed.

        Its key pair and the rest of its ``silo.toml`` stay. With definitions in a file, connections are not closed.

        Raises:
            ConfigError: it is not enrolled, or files cannot be written.
            BrokerError: the broker does not answer, or refuses.
        """
        directory = self._folder.silo(check_name("cohort", cohort), check_name("silo", silo))
        certificate = (directory / CERTIFICATE).exists()
        existing: Sequence[Enrolled] = ()
        if isinstance(target, LiveBroker):
            existing = target.users_of(cohort, silo)
            certificate = any(enrolled.certificate for enrolled in existing)
        elif certificate:
            raise ConfigError(
                "a definitions file cannot delete the user of the old certificate",
                hint="omit --definitions: the management API can",
            )
        user = User.of_certificate(cohort, silo) if certificate else User(cohort, silo)
        define = (
            partial(definitions.for_user, self._vhost, user) if certificate else partial(definitions.for_login, user)
        )
        broker = self._login(target, user, directory, certificate, define)
        if isinstance(target, LiveBroker):
            target.drop_users(enrolled.user for enrolled in existing if enrolled.user != user)
            target.disconnect(str(user))
        file = directory / SETTINGS
        if file.exists():
            text = with_broker(file.read_text(encoding="utf-8"), broker)
        else:
            administrator = self._rosters.administrator
            key = None if administrator is None else administrator.public
            text = settings(silo, cohort, broker, self._folder.coordinators().values(), key)
        write_secret(file, text, force=True)
        return Handout(str(user), directory, None)

    def revoke(self, target: LiveBroker, cohort: str, silo: str) -> Revoked:
        """Delete a silo's user and queues, and its key from the coordinators' files and the roster. Its files stay.

        Raises:
            ConfigError: it is not enrolled.
            BrokerError: the broker does not answer, or refuses.
        """
        users = [enrolled.user for enrolled in target.users_of(cohort, silo)]
        target.drop_users(users)
        target.drop_queues(cohort, silo)
        self._folder.collect(cohort, silo, None)
        roster = None if self._rosters.read(cohort) is None else self._rosters.sign(cohort, {silo: None})
        return Revoked([str(user) for user in users], roster)

    def _before(self, target: Target, user: User) -> list[User]:
        """Return the silo's existing users, which only ``force`` replaces."""
        if not isinstance(target, LiveBroker):
            return []
        target.check_ready()
        target.check_here(user)
        existing = [enrolled.user for enrolled in target.silos(user.cohort) if enrolled.user.silo == user.silo]
        if not self._force:
            for name in existing or [user]:
                target.check_new(str(name))
        return existing

    def _login(
        self,
        target: Target,
        user: User,
        directory: Path,
        certificate: bool,
        define: Callable[[str | None], Definitions],
    ) -> str:
        """Define the user at the broker and write its login files. Return the broker's URL for it, a secret."""
        authority_options = self._vouched(directory)
        password = None if certificate else _password()
        certificate_files = signed(self._folder.authority, str(user)) if certificate else None
        target.load(define(password))
        if certificate_files is None:
            return self._broker.for_user(str(user), password, self._vhost, **authority_options)
        write_secret(directory / KEY, certificate_files.key, force=True)
        write_secret(directory / CERTIFICATE, certificate_files.certificate, force=True)
        login_options = {"auth": "EXTERNAL", "certfile": CERTIFICATE, "keyfile": KEY}
        return self._broker.for_user(str(user), None, self._vhost, **authority_options, **login_options)

    def _vouched(self, directory: Path) -> dict[str, str]:
        """Return the URL option that names the broker's authority, and copy its certificate into the directory."""
        authority = self._broker.authority
        if authority is None:
            return {}
        write_secret(directory / BROKER_AUTHORITY, f"{read_text(authority)}\n", force=True)
        return {"cafile": BROKER_AUTHORITY}

    def _check_free(self, *files: Path) -> None:
        for file in files:
            if file.exists() and not self._force:
                raise ConfigError(f"{file} exists already", hint="give --force to replace it, or another --out")


def _password() -> str:
    """Return 192 random bits, in characters that need no quoting in a URL."""
    return secrets.token_urlsafe(24)
