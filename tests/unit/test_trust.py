"""Keys, envelopes and encrypted blobs: only the intended recipient can open them."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedbroker.errors import ConfigError, Forged, WireError
from fedbroker.transport.blobs.encryption import PIECE, TAG, open_blob, seal_blob
from fedbroker.trust import Identity, Public
from fedbroker.trust.envelope import (
    SKEW,
    Authenticator,
    MessageContext,
    check_age,
    open_envelope,
    sender_of,
    unverified_body,
    wrap,
)
from fedbroker.trust.keyring import Keys
from fedbroker.wire.blobs import digest_of

COORDINATOR, EWR, JFK = (Identity(bytes([number]) * 32) for number in (1, 2, 3))
KNOWN = {one.public.id: one.public for one in (COORDINATOR, EWR, JFK)}
ABOUT = MessageContext("work", "airports", "ewr", "s1", 0)
NOW = 1_700_000_000.0

words = st.text(max_size=8)
abouts = st.builds(MessageContext, words, words, words, words, st.integers(0, 1000))


def closed(body: bytes, about: MessageContext = ABOUT, to: Identity | None = None) -> bytes:
    return wrap(body, about, COORDINATOR, now=NOW, seal_to=None if to is None else to.public)


def opened(data: bytes, about: MessageContext = ABOUT, reader: Identity = EWR):
    return open_envelope(data, about, reader, KNOWN.get)


# --- keys ---


def test_keys_are_lines_of_text():
    assert Identity.parse(COORDINATOR.reveal()).public == COORDINATOR.public
    assert Public.parse(str(COORDINATOR.public)) == COORDINATOR.public
    assert len({COORDINATOR.public, Public.parse(str(COORDINATOR.public)), EWR.public}) == 2


def test_secret_is_in_no_representation():
    secret = COORDINATOR.reveal().partition(":")[2]
    keys = Keys(COORDINATOR, {"ewr": EWR.public})
    for shown in (repr(COORDINATOR), str(COORDINATOR), repr(keys), repr(Authenticator(keys)), f"{COORDINATOR!r}"):
        assert secret not in shown
        assert COORDINATOR.public.fingerprint in shown


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text + "AAAA",
        lambda text: "x" + text,
        lambda text: text[:-1] + "!",
        lambda text: text.replace(":", ";"),
    ],
)
@pytest.mark.parametrize("kind", [Identity, Public])
def test_damaged_key_is_refused_and_not_shown(kind, spoil):
    text = COORDINATOR.reveal() if kind is Identity else str(COORDINATOR.public)
    with pytest.raises(ConfigError) as caught:
        kind.parse(spoil(text))
    assert text.partition(":")[2][:20] not in str(caught.value)


def test_two_identities_derive_a_common_secret():
    assert COORDINATOR.shared_with(EWR.public) == EWR.shared_with(COORDINATOR.public)
    assert COORDINATOR.shared_with(EWR.public) != COORDINATOR.shared_with(JFK.public)


def test_key_without_a_common_secret_is_refused():
    useless = Public(EWR.public._raw[:32], bytes(32))
    with pytest.raises(ConfigError, match="not usable"):
        COORDINATOR.shared_with(useless)


# --- envelopes ---


@given(body=st.binary(max_size=2000), about=abouts, sealed=st.booleans())
def test_closed_envelope_is_opened(body, about, sealed):
    found = opened(closed(body, about, EWR if sealed else None), about)
    assert found.body == body
    assert found.sender == COORDINATOR.public
    assert found.issued == NOW
    assert found.sealed == sealed


@given(body=st.binary(max_size=200), sealed=st.booleans(), data=st.data())
def test_any_change_of_an_envelope_is_detected(body, sealed, data):
    whole = closed(body, to=EWR if sealed else None)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Forged):
        opened(bytes(changed))


@given(body=st.binary(max_size=200), sealed=st.booleans(), data=st.data())
def test_truncated_or_extended_envelope_is_detected(body, sealed, data):
    whole = closed(body, to=EWR if sealed else None)
    with pytest.raises(Forged):
        opened(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(Forged):
        opened(whole + data.draw(st.binary(min_size=1, max_size=100)))


@given(one=abouts, other=abouts, sealed=st.booleans())
def test_envelope_of_another_context_is_refused(one, other, sealed):
    assume(one != other)
    with pytest.raises(Forged):
        opened(closed(b"body", one, EWR if sealed else None), other)


@given(st.binary(max_size=300))
def test_garbage_raises_only_forged(data):
    with pytest.raises(Forged):
        opened(data)
    with pytest.raises(Forged):
        opened(b"FS\x01\x01" + data)


def test_sealed_envelope_opens_only_for_its_recipient():
    sealed = closed(b"the model", to=EWR)
    assert b"the model" not in sealed
    with pytest.raises(Forged, match="sealed to another key"):
        opened(sealed, reader=JFK)
    with pytest.raises(WireError, match="is sealed"):
        unverified_body(sealed)


def test_unknown_signer_is_refused():
    with pytest.raises(Forged, match="an unknown key"):
        open_envelope(closed(b"body"), ABOUT, EWR, {}.get)


def test_no_two_envelopes_are_equal():
    assert closed(b"body") != closed(b"body")
    assert opened(closed(b"body")).nonce != opened(closed(b"body")).nonce
    assert closed(b"body", to=EWR)[-100:-64] != closed(b"body", to=EWR)[-100:-64]


def test_signed_only_body_is_readable():
    assert unverified_body(closed(b"body")) == b"body"
    assert unverified_body(b"FB in no envelope") == b"FB in no envelope"
    assert sender_of(closed(b"body")) == COORDINATOR.public.id
    assert sender_of(b"FB in no envelope" * 10) is None


# --- guards ---


def at_coordinator(seal: bool = False) -> Authenticator:
    return Authenticator(Keys(COORDINATOR, {"ewr": EWR.public, "jfk": JFK.public}, seal), by_name=True)


def at_silo(own: Identity, seal: bool = False) -> Authenticator:
    return Authenticator(Keys(own, {"coordinator": COORDINATOR.public}, seal))


REPLY = MessageContext("reply", "airports", "ewr", "s1", 0)


def test_silo_may_sign_only_its_own_messages():
    guard = at_coordinator()
    assert guard.open(at_silo(EWR).wrap(b"mine", REPLY), REPLY).body == b"mine"
    with pytest.raises(Forged, match="an unknown key"):
        guard.open(at_silo(JFK).wrap(b"not mine", REPLY), REPLY)


def test_silo_accepts_its_coordinators_and_no_other_silo():
    assert at_silo(EWR).open(at_coordinator().wrap(b"work", ABOUT), ABOUT).body == b"work"
    with pytest.raises(Forged, match="an unknown key"):
        at_silo(EWR).open(at_silo(JFK).wrap(b"work", ABOUT), ABOUT)


def test_unsealed_message_is_refused_if_sealing_is_required():
    open_one = at_coordinator().wrap(b"work", ABOUT)
    assert at_silo(EWR, seal=True).open(open_one, ABOUT).body == b"work"
    with pytest.raises(Forged, match="not sealed"):
        at_silo(EWR, seal=True).open(open_one, ABOUT, sealed=True)
    sealed_one = at_coordinator().wrap(b"work", ABOUT, EWR.public)
    assert at_silo(EWR, seal=True).open(sealed_one, ABOUT, sealed=True).sealed


def test_without_keys_messages_are_unsigned_and_signed_ones_refused():
    assert Authenticator().wrap(b"body", ABOUT) == b"body"
    assert Authenticator().open(b"body", ABOUT) is None
    with pytest.raises(Forged, match="has no keys"):
        Authenticator().open(closed(b"body"), ABOUT)
    with pytest.raises(Forged, match=r"not signed.*\[security\] at the silo, keys= at the coordinator"):
        at_silo(EWR).open(b"body" * 100, ABOUT)


def test_one_key_under_two_names_is_refused():
    with pytest.raises(ConfigError, match="'ewr' and 'jfk' have the same"):
        Keys(COORDINATOR, {"ewr": EWR.public, "jfk": EWR.public})
    with pytest.raises(ConfigError, match="no public key"):
        Keys(COORDINATOR, {})


@pytest.mark.parametrize(
    ("age", "seconds", "good"),
    [
        (0, 0, True),
        (-SKEW, 0, True),
        (-SKEW - 1, 0, False),
        (60 + SKEW, 60, True),
        (61 + SKEW, 60, False),
    ],
)
def test_expired_or_future_message_is_refused(age, seconds, good):
    one = dataclasses.replace(opened(closed(b"body")), issued=NOW - age)
    if good:
        check_age(one, seconds, NOW)
    else:
        with pytest.raises(Forged, match="written"):
            check_age(one, seconds, NOW)


# --- blobs ---

SECRET = bytes(range(32))


@given(st.binary(max_size=4000))
def test_encrypted_blob_is_decrypted_to_itself(data):
    digest = digest_of(data)
    assert open_blob(seal_blob(data, digest, SECRET), digest, SECRET) == data


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_blob_sizes_around_a_chunk(size):
    data = (bytes(range(251)) * (1 + size // 251))[:size]
    digest = digest_of(data)
    sealed = seal_blob(data, digest, SECRET)
    assert len(sealed) == size + TAG * max(1, -(-size // PIECE))
    assert open_blob(sealed, digest, SECRET) == data
    assert seal_blob(data, digest, SECRET) == sealed  # so that it can be sent again under the same digest


@given(st.data())
def test_changed_blob_is_not_decrypted(data):
    content = bytes(PIECE) + bytes([1]) * PIECE + bytes(100)
    digest = digest_of(content)
    sealed = bytearray(seal_blob(content, digest, SECRET))
    match data.draw(st.sampled_from(["flip", "cut", "swap", "more"])):
        case "flip":
            sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1
        case "cut":
            del sealed[data.draw(st.sampled_from([0, 1, TAG, PIECE + TAG, 2 * (PIECE + TAG), len(sealed) - 1])) :]
        case "swap":
            one, other = sealed[: PIECE + TAG], sealed[PIECE + TAG : 2 * (PIECE + TAG)]
            sealed[: 2 * (PIECE + TAG)] = other + one
        case "more":
            sealed += bytes(TAG)
    with pytest.raises(Forged):
        open_blob(sealed, digest, SECRET)


def test_other_secret_or_digest_does_not_decrypt():
    sealed = seal_blob(b"blob", digest_of(b"blob"), SECRET)
    with pytest.raises(Forged):
        open_blob(sealed, digest_of(b"blob"), bytes(32))
    with pytest.raises(Forged):
        open_blob(sealed, digest_of(b"other"), SECRET)


def test_blob_under_a_wrong_digest_is_detected_despite_a_valid_secret():
    with pytest.raises(Forged, match="other content"):
        open_blob(seal_blob(b"blob", digest_of(b"other"), SECRET), digest_of(b"other"), SECRET)
