"""Imports the names of `stargraph.testing` at their first use."""

from importlib import import_module
from typing import Any, Final

_HOMES: Final = {
    "CallMade": "stargraph.testing._context",
    "Crashed": "stargraph.testing._crashes",
    "FakeContext": "stargraph.testing._context",
    "InTurn": "stargraph.testing._fakes",
    "QuestionAsked": "stargraph.testing._context",
    "check_resumable": "stargraph.testing._crashes",
    "crash_after": "stargraph.testing._crashes",
    "recorded_calls": "stargraph.testing._runs",
    "run_graph": "stargraph.testing._runs",
}


def __getattr__(name: str) -> Any:  # the hook of the package, which imports it
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'stargraph.testing' has no attribute {name!r}")
    return getattr(import_module(home), name)
