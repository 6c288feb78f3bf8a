"""What a run of the tests takes from its surroundings, and what it says when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from support.workspace import ROOT

TERMINAL = {"NO_COLOR": "1", "FORCE_COLOR": "1", "PY_COLORS": "1", "COLUMNS": "40", "LINES": "10"}


def _run(test: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, f"{__file__}::{test}"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        command, cwd=ROOT, env=kept | variables, capture_output=True, text=True, encoding="utf-8", check=False
    )


def test_tests_see_nothing_of_the_terminal() -> None:
    assert {name: os.environ[name] for name in (*TERMINAL, "TZ") if name in os.environ} == {}
    assert "JST" not in time.tzname or not os.environ.get("STARGRAPH_TEST_ELSEWHERE")


@pytest.mark.thorough
@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_terminal_that_is_set_up_oddly_reaches_no_test(processes: str) -> None:
    odd = TERMINAL | {"TZ": "JST-9", "STARGRAPH_TEST_ELSEWHERE": "1"}
    done = _run(test_tests_see_nothing_of_the_terminal.__name__, "-n", processes, **odd)
    assert done.returncode == 0, done.stdout + done.stderr


def test_fails_where_it_is_told_to() -> None:
    assert "STARGRAPH_TEST_FAILURE" not in os.environ


@pytest.mark.thorough
@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_run_that_fails_says_how_its_order_comes_again(processes: str) -> None:
    words = ("-n", processes, "--randomly-seed", "7")
    done = _run(test_fails_where_it_is_told_to.__name__, *words, STARGRAPH_TEST_FAILURE="1")
    assert done.returncode == 1
    assert "the same order again: --randomly-seed=7\n" in done.stdout, done.stdout + done.stderr
