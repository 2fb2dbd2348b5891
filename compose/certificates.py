#!/usr/bin/env python3
"""Check the broker's certificate, and copy it into compose/secrets/ for tls.yaml. Needs Python 3 alone.

    python3 compose/certificates.py ca.pem server.pem server.key broker.example

takes the authority's certificate, the broker's certificate (with any intermediate ones after it), its key, and the host
name or address at which silos reach the broker. A silo's first connection would find the same faults, and later: a key
of another certificate, a certificate of another authority, for another name, or expired.

The copies have a mode with which the containers' users can read them; the directory compose/secrets/ keeps others out.
Restart the broker after a change.
"""

from __future__ import annotations

import ssl
import sys
from pathlib import Path


def main() -> None:
    """Check and copy the files that the arguments name."""
    if len(sys.argv) not in (5, 6):
        sys.exit("usage: certificates.py CA CERTIFICATE KEY NAME [DIRECTORY]")
    ca, certificate, key = map(Path, sys.argv[1:4])
    directory = Path(sys.argv[5]) if len(sys.argv) == 6 else Path(__file__).parent / "secrets"
    if not directory.is_dir():
        sys.exit(f"{directory} does not exist: run passwords.py first")
    fault = check(ca, certificate, key, sys.argv[4])
    if fault is not None:
        sys.exit(f"nothing was copied: {fault}")
    for source, name in ((ca, "ca.pem"), (certificate, "server.pem"), (key, "server.key")):
        target = directory / name
        content = source.read_bytes()
        target.unlink(missing_ok=True)
        target.write_bytes(content)
        target.chmod(0o444)


def check(ca: Path, certificate: Path, key: Path, name: str) -> str | None:
    """Return why a silo that trusts the authority would not connect to the name; None if it would."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        for path in (ca, certificate, key):
            path.read_bytes()
        client.load_verify_locations(ca)
    except ssl.SSLError:
        return f"{ca} holds no certificate in PEM form"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    try:
        server.load_cert_chain(certificate, key, password=no_password)
    except ssl.SSLError as error:
        if "MISMATCH" in str(error):
            return f"{key} is not the key of the certificate in {certificate}"
        return f"{certificate} holds no certificate in PEM form, or {key} no key ({error.reason or error})"
    except ValueError:
        return f"{key} is encrypted, and the broker has no password for it"
    try:
        handshake(client, server, name)
    except ssl.SSLCertVerificationError as error:
        return f"{certificate} at {name}, by {ca}: {error.verify_message}"
    except (ssl.SSLError, ValueError) as error:
        return f"{certificate} at {name}: {error}"
    return None


def no_password() -> str:
    """Refuse an encrypted key instead of asking at the terminal."""
    raise ValueError


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """Let two ends in this process connect by TLS.

    Raises:
        SSLError: one of them refuses.
    """
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname=name), server.wrap_bio(up, down, server_side=True)]
    while ends:
        for end in tuple(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)


if __name__ == "__main__":
    main()
