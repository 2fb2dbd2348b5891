"""``fedbroker key``: a coordinator's secret, and its public key."""

from __future__ import annotations

from pathlib import Path

from fedbroker.trust.files import public_key

__all__ = ["key"]


def key(file: Path, /) -> None:
    """Print the public key of this coordinator's secret; make the secret first, if it is not there.

    Silos that name the public key in [security] of their settings take work from this coordinator. The secret never
    leaves the file, which only its owner may read; the TOML file of a context's `keys` names it.

    Parameters
    ----------
    file
        The file with the secret.
    """
    print(public_key(file))
