"""`stargraph validate`."""

from __future__ import annotations

import typer

from stargraph.cli._exit_codes import ExitCode
from stargraph.cli._options import GraphArgument, JsonOption
from stargraph.cli._output import clean, print_json, print_lines


def validate(graph: GraphArgument, json: JsonOption = False) -> None:
    """Check GRAPH without running it.

    Its code is imported. Names, types, expressions and the state are checked as a run checks them, and so is what a run
    would notice only later: expressions that do not fit the fields, nodes that never run. Exits with 2 if anything is
    found.
    """
    from contextlib import nullcontext

    from stargraph.cli._execution import load
    from stargraph.cli._streams import stdout_kept

    # What the modules of the nodes print must not get between the JSON.
    with stdout_kept() if json else nullcontext():
        loaded = load(graph)
        warnings = loaded.validate()
    if json:
        print_json(
            {
                "graph": loaded.id,
                "valid": not warnings,
                "warnings": list(warnings),
                "nodes": [node.id for node in loaded.ir.nodes],
                "graph_hash": loaded.graph_hash,
                "runtime_hash": loaded.runtime_hash,
            }
        )
    else:
        nodes, rules = len(loaded.ir.nodes), len(loaded.ir.rules)
        found = f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''}" if warnings else "valid"
        print_lines(
            [
                *(clean(f"warning: {warning}") for warning in warnings),
                clean(f"{graph}: {found}; graph {loaded.id!r}, {nodes} nodes, {rules} rules"),
            ]
        )
    if warnings:
        raise typer.Exit(ExitCode.USAGE)
