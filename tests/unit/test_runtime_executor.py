"""The functions that an executor keeps, for any order of users."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fedbroker.runtime.executor import FunctionCache

ROOM = 100
SIZES = {"a": 30, "b": 40, "c": 50, "d": 120}


class Users(RuleBasedStateMachine):
    """Users of four functions, not all of which fit."""

    def __init__(self):
        super().__init__()
        self.functions = FunctionCache(ROOM)
        self.using: list[dict[str, str]] = []
        self.there: dict[str, str] = {}  # id and name, as the runtime has them
        self.made = 0

    @rule()
    def comes(self):
        self.using.append({})

    @rule(which=st.integers(0, 9), name=st.sampled_from(sorted(SIZES)))
    def uses(self, which, name):
        if which >= len(self.using) or name in self.using[which]:
            return
        known = self.functions.use(name)
        if known is None:
            self.made += 1
            known = f"value {self.made}"
            assert self.functions.add(name, known, SIZES[name])
            assert not self.functions.add(name, "another", SIZES[name])
            self.there[known] = name
        assert self.there[known] == name
        self.using[which][name] = known

    @rule(which=st.integers(0, 9))
    def goes(self, which):
        if which >= len(self.using):
            return
        for one in self.functions.release(self.using.pop(which)):
            del self.there[one]
        used = {one for user in self.using for one in user.values()}
        assert self.there.keys() <= used or sum(SIZES[name] for name in self.there.values()) <= ROOM

    @invariant()
    def what_is_used_is_there(self):
        assert all(one in self.there for user in self.using for one in user.values())


TestUsers = Users.TestCase
TestUsers.settings = settings(max_examples=200, stateful_step_count=40)


def test_least_recently_used_functions_are_disposed_first():
    functions = FunctionCache(ROOM)
    for name in ("a", "b", "c"):
        assert functions.add(name, name.upper(), SIZES[name])
    assert functions.release(["c"]) == ["C"]
    assert functions.release(["b", "a"]) == []
    assert functions.use("a") == "A"
    assert functions.add("c", "C2", SIZES["c"])
    assert functions.release(["a", "c"]) == ["B"]
