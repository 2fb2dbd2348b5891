"""A stage's masking request says the same to all of its silos."""

from __future__ import annotations

import pytest

from fedbroker.errors import MaskingError
from fedbroker.masking.request import MaskingRequest, decode_request, encode_request
from fedbroker.masking.rings import Ring
from tests.support.masking import Silos

WORK = b"w" * 32


def request(count=3, **changes):
    fields = {
        "members": Silos(count).members.all,
        "clients": tuple(range(count)),
        "dropouts": False,
        "work": WORK,
        "outputs": ((Ring(4), Ring(8, 5)), None, (Ring(3),)),
    }
    return MaskingRequest(**{**fields, **changes})


def test_a_request_is_read_as_it_was_written():
    wanted = request()
    assert decode_request(encode_request(wanted)) == wanted
    with pytest.raises(MaskingError, match="cannot be read"):
        decode_request(b"\xc1")


def test_rings_and_contributors():
    assert request().rings == (Ring(4), Ring(8, 5), Ring(3))
    assert request().contributors() == {"s01", "s02"}


def test_each_silo_vouches_for_its_number_of_clients():
    request().check_clients("s02", 2)
    with pytest.raises(MaskingError, match="names 0 clients of silo 's00', which has 2"):
        request().check_clients("s00", 2)
    with pytest.raises(MaskingError, match="names None clients"):
        request().check_clients("s99", 2)


def test_counts_of_clients_have_to_fit_the_members():
    with pytest.raises(MaskingError, match="no number of clients for each member"):
        request(clients=(1, 2))


def test_every_part_of_a_request_is_part_of_the_occasion():
    variants = [
        request(),
        request(clients=(0, 1, 3)),
        request(dropouts=True),
        request(work=b"x" * 32),
        request(outputs=((Ring(4), Ring(8, 5)), (Ring(3),))),
        request(outputs=((Ring(4),), None, (Ring(8, 5), Ring(3)))),
        request(outputs=((Ring(4), Ring(8, 7)), None, (Ring(3),))),
        request(),  # a restarted silo has another mask key
    ]
    occasions = [variant.occasion("session", 1) for variant in variants]
    occasions += [variants[0].occasion("other", 1), variants[0].occasion("session", 2)]
    assert len({where.as_bytes() for where in occasions}) == len(occasions)
