"""`stargraph verify` and `stargraph anchor`."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Final

import typer

from stargraph.cli._custody import count_runs, counting, input_file, output_file
from stargraph.cli._errors import ExitCode, print_error
from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    AllOption,
    CheckpointOption,
    JsonOption,
    KeysOption,
    RunIdsArgument,
)
from stargraph.cli._output import emit, one_line, plural, print_json, print_lines, show_time, table
from stargraph.errors import StargraphError

if TYPE_CHECKING:
    from stargraph.audit import Anchor, Finding, VerifyReport

_SHOWN: Final = 100
"""How many lines of each kind are printed; --json has all."""


def verify(
    run_id: RunIdsArgument = None,
    everything: AllOption = False,
    anchor: Annotated[
        str | None, typer.Option(metavar="FILE", help="Compare with the heads that `stargraph anchor` wrote.")
    ] = None,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Read runs from their first step to their last, and report all that is not as it was written.

    Without RUN_ID, every run of the store. Ends with 0 where all is sound, and with 7 where something is not.
    STARGRAPH_INTEGRITY_KEY has the seals checked; without a key, a whole chain can be forged.
    """
    from stargraph.cli._execution import run_async

    if run_id and everything:
        raise StargraphError(
            "both runs and --all are given", reason="invalid-arguments", hint="Name runs, or give --all."
        )
    report, known = run_async(_verify(checkpoint, run_id or None, anchor))
    if json:
        print_json({**report.model_dump(mode="json"), "sound": report.sound})
    else:
        print_lines(_told(report, known))
    if not report.sound:
        if not json:
            runs = len({finding.run_id for finding in report.findings})
            print_error(
                f"not as it was written: {plural(len(report.findings), 'finding')} in {plural(runs, 'run')}",
                "docs/audit.md says what each kind means and what to do.",
            )
        raise typer.Exit(ExitCode.STORE)


def anchor(
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="Where to write it; stdout without it.")] = "-",
    renew: Annotated[
        bool, typer.Option("--renew", help="Write it although the store contradicts the file that is there.")
    ] = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
) -> None:
    """Write the latest step and digest of every run, for `verify --anchor` at a later time.

    Keep the file where nobody who can write to the store can write. Where FILE is there already, the store is
    compared with it first, and an anchor that contradicts the former one is not written.
    """
    from pathlib import Path

    from stargraph.cli._execution import run_async

    former = file if file != "-" and Path(file).exists() and not renew else None
    made = run_async(_anchor(checkpoint, former))
    with output_file(file) as stream:
        stream.write(made.to_json().encode())
    if file != "-":
        sealed = f"sealed with {made.seal.key_id}" if made.seal else "not sealed: there is no key"
        emit(f"anchored {plural(len(made.runs), 'run')} in {file}, {sealed}", sys.stderr)


async def _verify(url: str, run_ids: list[str] | None, file: str | None) -> tuple[VerifyReport, Anchor | None]:
    from stargraph.audit import verify as look
    from stargraph.cli._store import keyring, opened

    keys = keyring()
    known = None if file is None else _read_anchor(file)
    async with opened(url, must_exist=True) as store:
        with counting("verifying", await count_runs(store, run_ids)) as progress:
            return await look(store, run_ids, keyring=keys, anchor=known, progress=progress), known


async def _anchor(url: str, former: str | None) -> Anchor:
    from stargraph.audit import anchor as make
    from stargraph.cli._store import keyring, opened

    after = None if former is None else _read_anchor(former)
    async with opened(url, must_exist=True) as store:
        with counting("anchoring", await count_runs(store, None)) as progress:
            return await make(store, keyring=keyring(), after=after, progress=progress)


def _read_anchor(file: str) -> Anchor:
    from stargraph.audit import Anchor
    from stargraph.cli._store import keyring

    with input_file(file) as stream:
        text = stream.read()
    try:
        return Anchor.from_json(text, keyring=keyring())
    except StargraphError as error:
        error.message = f"{file}: {error.message}"
        error.args = (error.message,)
        raise


def _told(report: VerifyReport, known: Anchor | None) -> list[str]:
    rows = [
        (finding.kind, finding.run_id or "", _steps(finding), one_line(finding.message))
        for finding in report.findings[:_SHOWN]
    ]
    lines = [*table(("FOUND", "RUN", "STEP", "WHAT"), rows), ""] if rows else []
    if len(report.findings) > _SHOWN:
        lines.insert(-1, f"and {len(report.findings) - _SHOWN:,} more; --json has all")
    for kind, number in Counter(note.kind for note in report.notes).items():
        notes = [note for note in report.notes if note.kind == kind][:3]
        lines += [f"note     {note.run_id}: {one_line(note.message)}" for note in notes]
        if number > len(notes):
            lines.append(f"note     and {plural(number - len(notes), 'run')} more: {kind}")
    by_key = ", ".join(f"{plural(count, 'step')} by {key}" for key, count in report.seals.items() if key)
    unsealed = report.seals.get("", 0)
    lines.append(f"seals    {by_key or 'none'}{f', {unsealed:,} without' if by_key and unsealed else ''}{_checked()}")
    if known is not None:
        sealed = f"sealed with {known.seal.key_id}" if known.seal else "not sealed"
        lines.append(
            f"anchor   {plural(len(known.runs), 'run')}, made {show_time(known.made_at)}, {sealed}{_checked()}"
        )
    verdict = "sound" if report.sound else plural(len(report.findings), "finding")
    return [*lines, f"verified {plural(report.runs, 'run')}, {plural(report.steps, 'step')}: {verdict}"]


def _checked() -> str:
    from stargraph.cli._store import keyring

    return "" if keyring() is not None else "; not checked, since there is no key"


def _steps(finding: Finding) -> str:
    if finding.step is None:
        return ""
    return str(finding.step) if finding.step == finding.last_step else f"{finding.step}-{finding.last_step}"
