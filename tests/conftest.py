"""What every test shares."""

import os

import pytest
from hypothesis import HealthCheck, settings

from stargraph_torture.seeds import SEED_VARIABLE, short_seed

# A busy machine must not fail a test. Examples are found anew in each run, and a failure prints its blob.
settings.register_profile("stargraph", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("stargraph")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help=f"of the tests that torture stores; the same as {SEED_VARIABLE}")


def pytest_configure(config: pytest.Config) -> None:
    seed = config.getoption("--seed")
    if seed is not None:
        os.environ[SEED_VARIABLE] = str(seed)


def pytest_report_header() -> str:
    return f"seed of the torture: {short_seed()}"
