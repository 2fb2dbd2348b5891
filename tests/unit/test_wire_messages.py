"""Names are single words of a routing key."""

from __future__ import annotations

import pytest

from fedbroker.errors import ConfigError
from fedbroker.wire import check_name, is_name


@pytest.mark.parametrize("name", ["a", "7", "ewr", "new-york_2", "x" * 63])
def test_valid_names(name: str) -> None:
    assert is_name(name)
    assert check_name("silo", name) == name


@pytest.mark.parametrize("name", ["", "a.b", "*", "#", "Ewr", "-a", "_a", "x" * 64, "a b", "a\n", "é"])
def test_invalid_names_are_refused(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(ConfigError, match="not a name for a silo"):
        check_name("silo", name)
