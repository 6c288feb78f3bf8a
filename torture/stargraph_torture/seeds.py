"""Where the seeds of random tests come from, so that a failure can be played again."""

from __future__ import annotations

import os
import random
from typing import Final

SEED_VARIABLE: Final = "STARGRAPH_TORTURE_SEED"
"""The environment variable that names the seed."""


def first_seed() -> int:
    """Return the seed that is named, or any."""
    named = os.environ.get(SEED_VARIABLE)
    return int(named) if named else random.SystemRandom().randrange(10**6)


def short_seed() -> int:
    """Return the seed that is named, or the one of the short rounds in `make test`."""
    return int(os.environ.get(SEED_VARIABLE) or 1)
