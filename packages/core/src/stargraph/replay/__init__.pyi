from stargraph.replay._diff import Change, Diff, diff_states, diff_values
from stargraph.replay._replay import replay
from stargraph.replay._report import ReplayReport, StepDifference

__all__ = ["Change", "Diff", "ReplayReport", "StepDifference", "diff_states", "diff_values", "replay"]
