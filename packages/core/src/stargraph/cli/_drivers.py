"""`stargraph drivers`."""

from __future__ import annotations

from dataclasses import asdict

from stargraph.cli._options import JsonOption
from stargraph.cli._output import print_json, print_lines, table


def drivers(json: JsonOption = False) -> None:
    """List the drivers that are installed, by the scheme of the URLs that they open."""
    from stargraph.checkpoint.registry import installed_drivers

    found = installed_drivers()
    if json:
        print_json([asdict(driver) for driver in found])
    elif found:
        rows = [(f"{each.scheme}://", each.distribution, each.version, each.target) for each in found]
        print_lines(table(("OPENS", "PACKAGE", "VERSION", "CLASS"), rows))
    else:
        print_lines(["no drivers; install one: pip install stargraph-checkpoint-sqlite"])
