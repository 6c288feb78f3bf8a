"""Time travel: re-execute a run from its log, fork it, and see how two values or two runs differ.

The names are imported at their first use, as those of `stargraph.graph` are.
"""

from stargraph.replay._lazy import __getattr__  # noqa: F401  # the hook that imports them

__all__ = [
    "Change",
    "Diff",
    "Overlay",
    "ReplayReport",
    "RunDiff",
    "StepDifference",
    "StepPair",
    "compare_runs",
    "diff_runs",
    "diff_states",
    "diff_values",
    "open_fork",
    "replay",
]
