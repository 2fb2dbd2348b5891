"""A context's settings from one flat set of names, for tests that vary them."""

from __future__ import annotations

import dataclasses

from fedbroker import Options, Timeouts

__all__ = ["context_settings"]


def context_settings(**settings: object) -> dict[str, object]:
    """Return the keyword arguments of a context: fields of ``Timeouts`` and ``Options`` go into one of each."""
    for name, kind in (("timeouts", Timeouts), ("options", Options)):
        own = {one.name: settings.pop(one.name) for one in dataclasses.fields(kind) if one.name in settings}
        settings[name] = kind(**own)
    return settings
