"""The graph's definition: its data model, and reading it from YAML and JSON."""

from stargraph.ir._annotations import makes_reducers, reducers_in, refuse_named_reducers, signature_of, takes_two
from stargraph.ir._build import GraphBuilder
from stargraph.ir._callables import FOLDER_NAME, SESSION, callable_path, main_module_name
from stargraph.ir._changes import definition_changes
from stargraph.ir._check import CompileExpression, check_document
from stargraph.ir._definition import comparable_schema, definition_of, graph_hash
from stargraph.ir._draw import draw_graph
from stargraph.ir._edges import Edge
from stargraph.ir._load import load_graph, parse_graph, parse_yaml, read_graph
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
from stargraph.ir._positions import NO_SOURCE, Path, Positions, Source, did_you_mean, joined, show_path
from stargraph.ir._prompts import prompt_fields
from stargraph.ir._reach import unreachable_parts
from stargraph.ir._schema import graph_json_schema
from stargraph.ir._schema_values import fits_schema, schema_type
from stargraph.ir._types import canonical_type, parse_type, validate_value

__all__ = [
    "BUILTIN_KINDS",
    "BUILTIN_REDUCERS",
    "FOLDER_NAME",
    "IR_VERSION",
    "NO_SOURCE",
    "SESSION",
    "Action",
    "Ask",
    "CompileExpression",
    "Edge",
    "FieldSpec",
    "Goto",
    "GraphBuilder",
    "Halt",
    "IRDocument",
    "Map",
    "MigrationSpec",
    "NodeSpec",
    "Parallel",
    "Path",
    "Positions",
    "RetrySpec",
    "RuleSpec",
    "Source",
    "WhenSpec",
    "callable_path",
    "canonical_type",
    "check_document",
    "comparable_schema",
    "definition_changes",
    "definition_of",
    "did_you_mean",
    "draw_graph",
    "fits_schema",
    "graph_hash",
    "graph_json_schema",
    "joined",
    "load_graph",
    "main_module_name",
    "makes_reducers",
    "parse_graph",
    "parse_type",
    "parse_yaml",
    "prompt_fields",
    "read_graph",
    "reducers_in",
    "refuse_named_reducers",
    "schema_type",
    "show_path",
    "signature_of",
    "takes_two",
    "unreachable_parts",
    "validate_value",
]
