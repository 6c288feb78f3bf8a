"""Tests of graphs: a context for one node, answers and calls given ahead, time that skips, crashes at each step.

The names are imported at their first use, since pytest imports the plugin of this package in every run.
"""

from stargraph.testing._lazy import __getattr__  # noqa: F401  # the hook that imports them

__all__ = [
    "CallMade",
    "Crashed",
    "FakeContext",
    "InTurn",
    "QuestionAsked",
    "check_resumable",
    "crash_after",
    "recorded_calls",
    "run_graph",
]
