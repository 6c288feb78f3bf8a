from stargraph.replay._diff import Change, Diff, diff_states, diff_values
from stargraph.replay._fork import open_fork
from stargraph.replay._overlay import Overlay
from stargraph.replay._replay import replay
from stargraph.replay._report import ReplayReport, StepDifference
from stargraph.replay._runs import RunDiff, StepPair, compare_runs, diff_runs

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
