from stargraph.testing._context import CallMade, FakeContext, QuestionAsked
from stargraph.testing._crashes import Crashed, check_resumable, crash_after
from stargraph.testing._fakes import InTurn
from stargraph.testing._runs import recorded_calls, run_graph

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
