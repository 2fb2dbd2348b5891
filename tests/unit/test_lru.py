"""A map of bounded size keeps the entries that were used last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedbroker.lru import LruMap

operations = st.lists(st.tuples(st.sampled_from(["set", "use", "get", "delete"]), st.integers(0, 9)))


@given(operations, st.integers(1, 5))
def test_the_entries_used_last_are_kept(operations, most):
    entries, used = LruMap(most), []
    for number, (name, key) in enumerate(operations):
        match name:
            case "set":
                entries[key] = number
                used = [*(one for one in used if one != key), key][-most:]
            case "use":
                assert (entries.use(key) is None) == (key not in used)
                if key in used:
                    used = [*(one for one in used if one != key), key]
            case "get":
                assert (key in entries) == (key in used)
            case "delete":
                entries.pop(key, None)
                used = [one for one in used if one != key]
        assert list(entries) == used
