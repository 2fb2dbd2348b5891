"""The lines of the control socket: each message survives, and no other bytes get through."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from fedbroker_worker.control.protocol import (
    MAX_REQUEST,
    Account,
    Explain,
    Malformed,
    Pause,
    Rejection,
    Resume,
    Status,
    Watch,
    decode_reply,
    decode_request,
    encode,
)
from hypothesis import example, given
from hypothesis import strategies as st

REQUESTS = [Status(), Pause(), Resume(), Watch("i", 3, 1.5), Explain(-7)]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_requests_survive(request_):
    line = encode(request_)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_request(line) == request_


@pytest.mark.parametrize("reply", [Rejection("no", denied=True), Account(3, ["a\nb", "\x1b[31m"])])
def test_replies_survive_on_one_line(reply):
    assert encode(reply).count(b"\n") == 1
    assert decode_reply(encode(reply)) == reply


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"{}\n",
        b'{"request": "stop"}\n',
        b'{"request": "watch", "seconds": 31}\n',
        b'{"request": "watch", "seconds": -1}\n',
        b'{"request": "watch", "after": 1e300}\n',
        b'{"request": "explain"}\n',
        b'{"request": "status"}',
        b'{"request": "status"' + b" " * MAX_REQUEST + b"}\n",
        b"[" * 4000 + b"\n",
        b'{"request": "\xff"}\n',
    ],
)
def test_other_lines_are_malformed(line):
    with pytest.raises(Malformed):
        decode_request(line)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
@example(b'{"request":"watch","incarnation":"' + b"a" * 65 + b'"}\n')
def test_arbitrary_bytes_are_a_request_or_malformed(raw):
    for decode in (decode_request, decode_reply):
        with contextlib.suppress(Malformed):
            message = decode(raw)
            assert decode(encode(message)) == message


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["request", "after", "seconds", "id", "x"]), inner)
        ),
        max_leaves=8,
    )
)
def test_arbitrary_json_is_a_request_or_malformed(document):
    try:
        message = decode_request(msgspec.json.encode(document) + b"\n")
    except Malformed:
        return
    assert isinstance(message, Status | Pause | Resume | Watch | Explain)
