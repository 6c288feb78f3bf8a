"""Reports for people and machines: a table, JUnit XML, Markdown."""

from __future__ import annotations

import re
from typing import Final
from xml.etree import ElementTree as ET

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from stargraph.checkpoint.conformance._registry import Check
from stargraph.checkpoint.conformance._report import Report, Result, Verdict, kit_version

STYLES: Final[dict[Verdict, str]] = {
    "pass": "green",
    "fail": "bold red",
    "too-slow": "bold yellow",
    "blocked": "yellow",
    "skip": "dim",
    "expected-failure": "magenta",
    "error": "bold red reverse",
}

_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def groups_of(report: Report) -> dict[str, list[Result]]:
    """The results by group, in the order of the catalogue."""
    groups: dict[str, list[Result]] = {}
    for result in report.results:
        groups.setdefault(result.check.group, []).append(result)
    return groups


def show_report(report: Report, console: Console) -> None:
    """Print the table, the violations and the level."""
    table = Table(title=None, box=None, pad_edge=False)
    for title in ("group", "pass", "fail", "too slow", "blocked", "skip", "expected", "error", "seconds"):
        table.add_column(title, justify="left" if title == "group" else "right")
    for name, results in groups_of(report).items():
        counts = [sum(result.verdict == verdict for result in results) for verdict in STYLES]
        cells = [f"[{style}]{count}[/]" if count else "·" for count, style in zip(counts, STYLES.values(), strict=True)]
        label = f"{name} [dim](advisory)[/]" if all(result.check.advisory for result in results) else name
        table.add_row(label, *cells, f"{sum(result.seconds for result in results):.2f}")
    console.print(table)
    for result in report.results:
        if result.verdict in ("fail", "too-slow", "error", "expected-failure"):
            console.print(_violation(result))
    for cause, ids in _blocked(report).items():
        console.print(Text.assemble("\n", ("BLOCKED", STYLES["blocked"]), f" {cause}: {', '.join(ids)}"))
    for result in report.results:
        for name, value, unit in result.measurements:
            console.print(f"[dim]{escape(name)}: {value:.3f} {unit}[/]")
    console.print(_ending(report))


def _violation(result: Result) -> Group:
    style = STYLES[result.verdict]
    head = Text.assemble("\n", (result.verdict.upper(), style), " ", (result.check.id, "bold"))
    lines = Text("\n").join(Text(f"  {line}") for line in result.explained().splitlines())
    return Group(head, lines)


def _blocked(report: Report) -> dict[str, list[str]]:
    """The checks that were not executed, by what they wait for."""
    found: dict[str, list[str]] = {}
    for result in report.results:
        if result.verdict == "blocked":
            found.setdefault(result.message, []).append(result.check.id)
    return found


def _ending(report: Report) -> str:
    executed = report.count("pass", "fail", "expected-failure")
    catalogue = sum(not check.advisory for check in report.catalogue)
    colour = {"full": "green", "core": "green", "partial": "yellow", "none": "red"}[report.level]
    outcome = (
        "[bold yellow]interrupted[/], no level"
        if report.interrupted is not None
        else f"level [bold {colour}]{report.level}[/]"
    )
    return (
        f"\n{escape(report.driver)}{escape(_versions(report))}\n"
        f"{outcome}: {report.count('pass')} of {catalogue} checks passed,"
        f" {executed} executed, {report.count('fail')} violations"
        f" (kit {kit_version()}, seed {report.seed})"
    )


def _versions(report: Report) -> str:
    listed = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    return f" ({listed})" if listed else ""


def to_badge(report: Report) -> str:
    """The level as a picture in SVG, for a README."""
    colour = {"full": "#2e7d32", "core": "#558b2f", "partial": "#b28704", "none": "#c62828"}[report.level]
    text = f"{report.level}, {report.count('pass')} checks"
    left, right = 150, 10 + 7 * len(text)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img"'
        f' aria-label="stargraph conformance: {text}">'
        f'<rect width="{left}" height="20" fill="#555"/><rect x="{left}" width="{right}" height="20" fill="{colour}"/>'
        f'<g fill="#fff" font-family="Verdana,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14">stargraph conformance</text>'
        f'<text x="{left + right / 2}" y="14">{text}</text></g></svg>\n'
    )


_LONGEST_LINE: Final = 2_000
"""Characters of a line that no terminal wraps."""


def show_catalogue(checks: list[Check], console: Console) -> None:
    """Print every check with its reason; in a pipe each in one line."""
    if not console.is_terminal:
        console.width = _LONGEST_LINE
    table = Table(box=None, pad_edge=False)
    for title in ("id", "needed by", "quick", "what the contract says"):
        table.add_column(title, overflow="fold", no_wrap=title == "id")
    for check in checks:
        kind = "advisory" if check.advisory else check.capability or "every driver"
        table.add_row(check.id, kind, "yes" if check.quick else "no", escape(check.reason))
    console.print(table)


def show_check(check: Check, console: Console) -> None:
    """Print all that is known of one check."""
    kind = "advisory" if check.advisory else check.capability or "every driver"
    lines = {
        "contract says": check.reason,
        "part of it": check.contract,
        "usual cause": check.usual_cause,
        "applies to": f"drivers with the capability {kind!r}" if check.capability else kind,
        "needs": ", ".join(check.needs) or "nothing",
        "runs in": "several processes" if check.processes else "one process",
        "quick": "yes" if check.quick else "no",
        "deadline": f"{check.deadline:g} seconds",
        "version": str(check.version),
    }
    console.print(f"[bold]{check.id}[/]")
    for name, value in lines.items():
        console.print(f"  [dim]{name}[/]: {escape(value)}", highlight=False)


def to_junit(report: Report) -> str:
    """The report as JUnit XML, one test case for each check."""
    counted = [result for result in report.results if not result.check.advisory]
    suite = ET.Element(
        "testsuite",
        name=f"stargraph-conformance {report.target}",
        tests=str(len(counted)),
        failures=str(report.count("fail")),
        errors=str(report.count("error")),
        skipped=str(report.count("skip", "blocked", "expected-failure")),
    )
    properties = ET.SubElement(suite, "properties")
    facts = {"kit": kit_version(), "driver": report.driver, "level": report.level, "seed": str(report.seed)}
    if report.interrupted is not None:
        facts["interrupted"] = "true"
    for name, value in (facts | report.environment).items():
        ET.SubElement(properties, "property", name=name, value=value)
    for result in counted:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"stargraph.conformance.{result.check.group}",
            name=result.check.id,
            time=f"{result.seconds:.3f}",
        )
        if result.verdict == "pass":
            continue
        tag = {"fail": "failure", "error": "error"}.get(result.verdict, "skipped")
        child = ET.SubElement(case, tag, message=_xml(f"{result.verdict}: {result.message}"))
        child.text = _xml(result.explained())
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


def _xml(text: str) -> str:
    return _NOT_XML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def to_markdown(report: Report) -> str:
    """The report as a page."""
    lines = [
        f"# Conformance of `{report.target}`",
        "",
        (
            f"{'**Interrupted**, no level' if report.interrupted is not None else f'Level **{report.level}**'}:"
            f" {report.count('pass')} of"
            f" {sum(not check.advisory for check in report.catalogue)} checks passed,"
            f" {report.count('fail')} violations."
        ),
        "",
        f"- date: {report.started:%Y-%m-%d}",
        f"- driver: {report.driver}{_versions(report)}",
        f"- capabilities: {', '.join(report.capabilities) or 'none'}",
        f"- kit: {kit_version()}, seed {report.seed}",
        *(f"- {name}: {value}" for name, value in report.environment.items()),
        "",
        "| check | version | verdict | seconds |",
        "| --- | ---: | --- | ---: |",
    ]
    for result in report.results:
        verdict = f"**{result.verdict}**" if result.verdict in ("fail", "error") else result.verdict
        lines.append(f"| `{result.check.id}` | {result.check.version} | {verdict} | {result.seconds:.2f} |")
    for result in report.results:
        if result.verdict in ("fail", "error", "expected-failure"):
            lines += ["", f"## {result.verdict}: `{result.check.id}`", "", "```", result.explained().rstrip(), "```"]
        elif result.verdict in ("skip", "blocked"):
            lines += ["", f"`{result.check.id}`: {result.verdict}, {result.message}"]
    measured = [measurement for result in report.results for measurement in result.measurements]
    if measured:
        lines += ["", "## Measurements (advisory)", ""]
        lines += [f"- {name}: {value:.3f} {unit}" for name, value, unit in measured]
    return "\n".join(lines) + "\n"
