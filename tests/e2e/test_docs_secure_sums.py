"""docs/secure-sums.md, followed by a reader: its policy at each silo, its context, one masked sum and one refusal."""

from __future__ import annotations

import tomllib

import pytest
from fedbroker_worker.config import SecuritySettings

import fedbroker
from fedbroker.errors import PolicyRefusal
from tests.e2e.test_secure_sums import NUMBERS, SOURCES, SUM, invoke, masked_total, open_total
from tests.support.masked_cohort import masked_cohort
from tests.support.pages import blocks

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_page_leads_to_a_masked_sum(broker, cohort):
    (toml,) = blocks("docs/secure-sums.md", "toml")
    tables = tomllib.loads(toml)
    assert tables["security"].keys() <= set(SecuritySettings.__dataclass_fields__)
    (program,) = blocks("docs/secure-sums.md", "python")
    program = program.replace("amqps://coordinator:…@broker.example/", "{url}").replace('"airports"', repr(cohort))
    with masked_cohort(broker, cohort, SOURCES, policy=tables["policy"]) as silos:
        code = program.replace("set_sync", "create_sync").replace('"{url}"', repr(silos.url))
        code = code.replace('"coordinator.toml"', "keys").replace("\nfedbroker.", "\ncontext = fedbroker.")
        names = {"fedbroker": fedbroker, "keys": silos.keys}
        exec(code, names)
        with names["context"] as context:
            assert invoke(context, masked_total, *NUMBERS) == SUM
            with pytest.raises(PolicyRefusal, match="aggregates"):
                invoke(context, open_total, *NUMBERS)
