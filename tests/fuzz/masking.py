"""Fuzz targets of masked sums: the contents of their messages, their requests and results, and roster files."""

from __future__ import annotations

import copy
import functools

import numpy as np

from fedbroker.errors import ConfigError, MaskingError
from fedbroker.masking.coordinator import CoordinatorSum
from fedbroker.masking.members import Members
from fedbroker.masking.offers import Offer
from fedbroker.masking.request import decode_request, encode_request
from fedbroker.masking.results import add_packed, masked_parts, read_masked, write_masked
from fedbroker.masking.rings import Ring
from fedbroker.masking.roster import HEADER, parse_roster
from fedbroker.masking.steps import Refusal, Sharing, Signatures, SurvivorNames, decode_step, encode_step
from fedbroker.masking.survivors import Revealed
from fedbroker.trust.keys import joined
from tests.fuzz.errors import one_line
from tests.support.masking import COHORT, Silos, elements, occasion, plain

KINDS = (Offer, Sharing, SurvivorNames, bytes, Signatures, Revealed, Refusal)
RINGS = (Ring(1), Ring(3), Ring(5), Ring(8), Ring(8, 1000), Ring(8, (1 << 63) + 1))
NOW = 1.8e9


class _Sums:
    """A sum over three silos, at each step: the messages of the input come in place of those of silo ``s00``."""

    def __init__(self, silos, stage):
        where = occasion(silos.members, stage=stage)
        self.silo = [self._dealt(silos, name, where) for name in silos.names]
        self.early = CoordinatorSum(silos.members, where, silos.roster)
        self.late = CoordinatorSum(silos.members, where, silos.roster)
        for name, one in zip(silos.names, self.silo, strict=True):
            self.early.add_offer(name, one.offer)
            self.late.add_offer(name, one.offer)
        self.offers = self.late.fix_sharing()
        self.dealt = copy.copy(self.silo[0])
        for name, one in zip(silos.names, self.silo, strict=True):
            part = elements(plain(name))
            one.add_masks(part, self.offers[name])
            self.late.add_values(name, part)
        self.masked = copy.copy(self.silo[0])
        survivors = self.late.close()
        self.signatures = {name: one.sign(survivors) for name, one in zip(silos.names, self.silo, strict=True)}
        self.signed = copy.copy(self.silo[0])
        for name, one in list(zip(silos.names, self.silo, strict=True))[1:]:
            self.late.add_revealed(name, one.reveal(self.signatures))

    @staticmethod
    def _dealt(silos, name, where):
        return silos.masking[name].with_dropouts(silos.members, where, silos.roster, set(silos.names))


@functools.cache
def _silos() -> Silos:
    return Silos(3)


@functools.cache
def _sums() -> _Sums:
    return _Sums(_silos(), 1)


def mask_step(data: bytes) -> bool:
    """Decode the content of a masked sum's message as each kind that it can be; the sum must take or refuse it."""
    taken = False
    for kind in KINDS:
        try:
            found = decode_step(data, kind)
        except MaskingError as error:
            one_line(error)
            continue
        taken = True
        assert decode_step(encode_step(found), kind) == found
        try:
            _take(kind, found)
        except MaskingError as error:
            one_line(error)
    return taken


def _take(kind, found):
    sums = _sums()
    if kind is Offer:
        sums.early.add_offer("s00", found)
    elif kind is Sharing:
        copy.copy(sums.dealt).add_masks(elements(plain("s00")), _completed(found, sums.offers["s00"]))
    elif kind is SurvivorNames:
        copy.copy(sums.masked).sign(found)
    elif kind is bytes:
        sums.late.add_signature("s00", found)
    elif kind is Signatures:
        copy.copy(sums.signed).reveal({name: sums.signatures.get(name, one) for name, one in found.items()})
    elif kind is Revealed:
        sums.late.add_revealed("s00", found)
        sums.late.result()


def _completed(found, offers):
    """Return offers in which fields that begin with an even byte are those of the sum: inputs have none."""
    return {
        name: offer
        if name not in offers
        else Offer(
            *[
                getattr(offers[name] if getattr(offer, field)[0] % 2 == 0 else offer, field)
                for field in ("stage_key", "commitment", "signature")
            ],
            {**offers[name].sealed, **offer.sealed} if offer.signature[1] % 2 == 0 else offer.sealed,
        )
        for name, offer in found.items()
    }


def masking_request(data: bytes) -> bool:
    """Decode a masking request, and check it as a silo does."""
    try:
        request = decode_request(data)
        assert decode_request(encode_request(request)) == request
        members = request.checked_members()
    except MaskingError as error:
        one_line(error)
        return False
    silos, where = _silos(), request.occasion("session", 1)
    assert where != request.occasion("session", 2)
    assert request.contributors() <= set(members.names)
    assert len(request.rings) <= len(data)
    for changed in (members, Members((silos.masking["s00"].member, *members.all[1:])) if _sorted(members) else members):
        try:
            silos.masking["s00"].check(changed, where, silos.roster, request.contributors())
        except MaskingError as error:
            one_line(error)
    return True


def _sorted(members: Members) -> bool:
    return members.names[1] > "s00"


def masked(data: bytes) -> bool:
    """Read masked tensors and add them to a sum; the first byte selects their rings."""
    number = data[0] % 42 if data else 0
    rings = RINGS[number % 6 :][: 1 + number // 6 % 3]
    try:
        shapes, parts = masked_parts(data[1:], rings)
        for ring, part in zip(rings, parts, strict=True):
            add_packed(ring, None, part)
        again, values = read_masked(data[1:], rings)
    except MaskingError as error:
        one_line(error)
        return False
    assert again == shapes
    assert decoded_again(shapes, values, rings)
    for ring, part, shape, (_, found) in zip(rings, parts, shapes, values, strict=True):
        total = np.zeros(found.size, ring.carrier)
        add_packed(ring, total, part)
        assert total.tolist() == found.tolist()
        ring.values(total, np.dtype(np.int64)).reshape(shape)
    return True


def decoded_again(shapes, values, rings):
    again, found = read_masked(write_masked(shapes, values), rings)
    pairs = zip(values, found, strict=True)
    return again == shapes and all(one.tolist() == other.tolist() for (_, one), (_, other) in pairs)


def roster(data: bytes) -> bool:
    """Read a roster file; if the first byte is odd, the rest is the signed part of one."""
    administrator = _silos().identities["s00"]
    content = data[1:]
    if data[:1] and data[0] % 2:
        signature = administrator.sign(joined(HEADER, content)).hex()
        content = HEADER + b'{"roster":' + content + b',"signature":"' + signature.encode() + b'"}'
    try:
        found = parse_roster(content, administrator.public, COHORT, NOW)
    except ConfigError as error:
        one_line(error)
        return False
    assert found.keys.keys() == found.silos.keys()
    return True
