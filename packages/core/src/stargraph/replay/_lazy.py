"""Imports the names of `stargraph.replay` at their first use."""

from importlib import import_module
from typing import Any, Final

_HOMES: Final = {
    "Change": "stargraph.replay._diff",
    "Diff": "stargraph.replay._diff",
    "StepPair": "stargraph.replay._runs",
    "compare_runs": "stargraph.replay._runs",
    "diff_runs": "stargraph.replay._runs",
    "diff_states": "stargraph.replay._diff",
    "diff_values": "stargraph.replay._diff",
    "Overlay": "stargraph.replay._overlay",
    "ReplayReport": "stargraph.replay._report",
    "RunDiff": "stargraph.replay._runs",
    "StepDifference": "stargraph.replay._report",
    "open_fork": "stargraph.replay._fork",
    "replay": "stargraph.replay._replay",
}


def __getattr__(name: str) -> Any:  # the hook of the package, which imports it
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'stargraph.replay' has no attribute {name!r}")
    return getattr(import_module(home), name)
