#!/usr/bin/env python3
"""Make compose/secrets/: users and passwords for broker, Grafana and board of compose.yaml. Needs Python 3 alone.

Each silo, the coordinator and the board get a user of their own, whose URL goes into a file of that name; the broker
gets hashes of the passwords. An existing directory is left unchanged. For new passwords, remove the directory and
restart the broker.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import sys
from pathlib import Path

SILOS = ("ewr", "jfk", "lga")
COHORT = "airports"
OURS = r"^fedbroker\."
BOARDS = r"fedbroker\.board\.[0-9a-f]+\.(silos|events)"
READS_ONLY = {"configure": f"^{BOARDS}$", "write": f"^{BOARDS}$", "read": rf"^({BOARDS}|fedbroker\.(lobby|events))$"}
TOPICS = ("lobby", "events")  # of the exchanges that a board reads, which may start before all others


def main() -> None:
    """Write the files into the directory that the first argument names."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "secrets"
    try:
        # The users of containers must be able to read the files: the directory keeps others out.
        directory.mkdir(mode=0o700)
    except FileExistsError:
        sys.exit(f"{directory} exists already: remove it for new passwords")
    passwords = {name: secrets.token_urlsafe(24) for name in ("coordinator", "board", *SILOS)}
    for name, password in passwords.items():
        write(directory / name, f"amqp://{name}:{password}@broker:5672/")
    write(directory / "definitions.json", json.dumps(definitions(passwords), indent=2))
    for name in ("grafana", "board-token"):
        write(directory / name, secrets.token_urlsafe(24))


def write(path: Path, text: str) -> None:
    """Write a secret: readable by all, in a directory for its owner alone."""
    path.write_text(f"{text}\n")
    path.chmod(0o444)


def definitions(passwords: dict[str, str]) -> dict[str, object]:
    """Return the definitions that the broker loads when it starts: fedbroker's users only, none an administrator."""
    return {
        "vhosts": [{"name": "/"}],
        "users": [
            {
                "name": name,
                "password_hash": hashed(password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
            }
            for name, password in passwords.items()
        ],
        "permissions": [
            {"user": "coordinator", "vhost": "/", "configure": OURS, "write": OURS, "read": OURS},
            {"user": "board", "vhost": "/", **READS_ONLY},
            *({"user": silo, "vhost": "/", **of_its_own(silo)} for silo in SILOS),
        ],
        "topic_permissions": [
            {"user": silo, "vhost": "/", "exchange": f"fedbroker.{exchange}", "write": write, "read": read}
            for silo in SILOS
            for exchange, (write, read) in speaks_for_itself(silo).items()
        ],
        "exchanges": [
            {
                "name": f"fedbroker.{name}",
                "vhost": "/",
                "type": "topic",
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for name in TOPICS
        ],
    }


def of_its_own(silo: str) -> dict[str, str]:
    """Return the permissions of a silo. docs/security.md lists the attacks that they prevent."""
    queues = rf"(work|blobs|mailbox)\.{COHORT}\.{silo}|lobby\.{COHORT}(\.[2-5])?"
    makes = rf"^fedbroker\.({queues}|dead\.{COHORT}|work|reply|blobs|results|lobby|mail|dead)$"
    return {"configure": makes, "write": makes, "read": rf"^fedbroker\.({queues}|work|blobs|lobby|mail|dead)$"}


def speaks_for_itself(silo: str) -> dict[str, tuple[str, str]]:
    """Return, by exchange, the routing keys that a silo may publish and bind with; they contain its name."""
    return {
        "lobby": (rf"^{COHORT}\.{silo}$", rf"^{COHORT}\.\*$"),
        "work": (rf"^{COHORT}\.{silo}\.", rf"^{COHORT}\.{silo}\.\*$"),
        "reply": (rf"\.{silo}$", "^$"),
        "results": (rf"\.{silo}$", "^$"),
        "dead": ("^$", rf"^{COHORT}\.#$"),
    }


def hashed(password: str) -> str:
    """Return RabbitMQ's form of a password: four random bytes, and SHA-256 of these and the password."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


if __name__ == "__main__":
    main()
