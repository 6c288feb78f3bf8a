"""The graph's definition: its data model, and reading it from YAML and JSON."""

from stargraph.ir._models import (
    BUILTIN_KINDS,
    BUILTIN_REDUCERS,
    IR_VERSION,
    Action,
    Ask,
    FieldSpec,
    Goto,
    Halt,
    IRDocument,
    Map,
    NodeSpec,
    Parallel,
    RetrySpec,
    RuleSpec,
    WhenSpec,
)

__all__ = [
    "BUILTIN_KINDS",
    "BUILTIN_REDUCERS",
    "IR_VERSION",
    "Action",
    "Ask",
    "FieldSpec",
    "Goto",
    "Halt",
    "IRDocument",
    "Map",
    "NodeSpec",
    "Parallel",
    "RetrySpec",
    "RuleSpec",
    "WhenSpec",
]
