"""Which check proves which sentence of docs/contract.md: `python -m support.clauses`, in `tests`, writes the table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from stargraph.checkpoint.conformance import catalogue
from stargraph.checkpoint.conformance._clauses import UNPROVED
from support.broken_drivers.every import BROKEN_DRIVERS
from support.workspace import ROOT

CONTRACT: Final = ROOT / "docs/contract.md"
TABLE: Final = ROOT / "docs/contract-checks.md"

_ANCHOR: Final = re.compile(r'<a id="([\w.]+)"></a>')

_HEAD: Final = """\
# What proves the contract

Each sentence of [the contract](contract.md) has an id. This page lists the checks of the conformance kit that prove
it, and for each check the broken drivers that fail it. `make contract-checks` writes it, and a test compares it with
the kit.

## Sentences

| sentence | checks |
| --- | --- |
"""

_DRIVERS: Final = """
## Checks

| check | broken drivers that fail it |
| --- | --- |
"""


def clauses() -> dict[str, str]:
    """Return the sentences of the contract that have an id, by their ids."""
    text = CONTRACT.read_text()
    found = list(_ANCHOR.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return {match[1]: text[match.end() : end] for match, end in zip(found, ends, strict=True)}


def proofs() -> dict[str, list[str]]:
    """Return the ids of the checks that prove each sentence."""
    proved: dict[str, list[str]] = {clause: [] for clause in clauses()}
    for check in catalogue():
        for clause in check.clauses:
            proved.setdefault(clause, []).append(check.id)
    return proved


def table() -> str:
    """Return the page that shows it."""
    return _HEAD + "".join(_sentences()) + _DRIVERS + "".join(_checks())


def _sentences() -> Iterator[str]:
    for clause, checks in proofs().items():
        shown = ", ".join(f"`{check}`" for check in checks) or f"none: {UNPROVED[clause]}"
        yield f"| [{clause}](contract.md#{clause}) | {shown} |\n"


def _checks() -> Iterator[str]:
    for check in catalogue():
        if not check.advisory:
            names = sorted(driver.name for driver in BROKEN_DRIVERS.values() if check.id in driver.fails | driver.slow)
            yield f"| `{check.id}` | {', '.join(names)} |\n"


if __name__ == "__main__":
    TABLE.write_text(table())
