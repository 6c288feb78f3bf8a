"""The graph's definition: its data model, and reading it from YAML and JSON."""

from stargraph.ir._build import GraphBuilder, callable_path, main_module_name
from stargraph.ir._changes import definition_changes
from stargraph.ir._check import CompileExpression, check_document
from stargraph.ir._definition import comparable_schema, definition_of, graph_hash
from stargraph.ir._draw import draw_graph
from stargraph.ir._load import load_graph, parse_graph, parse_yaml
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
    MigrationSpec,
    NodeSpec,
    Parallel,
    RetrySpec,
    RuleSpec,
    WhenSpec,
)
from stargraph.ir._positions import Positions
from stargraph.ir._prompts import prompt_fields
from stargraph.ir._schema import graph_json_schema
from stargraph.ir._types import parse_type, validate_value

__all__ = [
    "BUILTIN_KINDS",
    "BUILTIN_REDUCERS",
    "IR_VERSION",
    "Action",
    "Ask",
    "CompileExpression",
    "FieldSpec",
    "Goto",
    "GraphBuilder",
    "Halt",
    "IRDocument",
    "Map",
    "MigrationSpec",
    "NodeSpec",
    "Parallel",
    "Positions",
    "RetrySpec",
    "RuleSpec",
    "WhenSpec",
    "callable_path",
    "check_document",
    "comparable_schema",
    "definition_changes",
    "definition_of",
    "draw_graph",
    "graph_hash",
    "graph_json_schema",
    "load_graph",
    "main_module_name",
    "parse_graph",
    "parse_type",
    "parse_yaml",
    "prompt_fields",
    "validate_value",
]
