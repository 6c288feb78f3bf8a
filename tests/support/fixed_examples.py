"""Keeps the examples of Hypothesis the same from one run of the tests to the next."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants


def draw_no_constants_of_modules() -> None:
    """Leave the constants of modules out of derandomised examples.

    Hypothesis draws one value in twenty from the constants in the modules that are loaded, and which ones are is a
    matter of the order of the tests, and of what other tests have imported. It has no setting for that, so this
    replaces a function of its inside; tests/workspace/test_fixed_examples.py fails if that changes.
    """
    of_modules = providers._get_local_constants

    def constants() -> Constants:
        return Constants() if settings().derandomize else of_modules()

    providers._get_local_constants = constants
