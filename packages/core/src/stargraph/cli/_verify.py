"""`stargraph verify` and `stargraph anchor`."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Final

import typer

from stargraph.cli._errors import print_error
from stargraph.cli._exit_codes import ExitCode
from stargraph.cli._files import input_file, output_file
from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    AllOption,
    CheckpointOption,
    ChildrenOption,
    JsonOption,
    KeysOption,
    RunIdsArgument,
)
from stargraph.cli._output import emit, one_line, plural, print_json, print_lines, show_time, table
from stargraph.cli._transfer import count_runs, progress_on_stderr
from stargraph.errors import StargraphError

if TYPE_CHECKING:
    from stargraph.audit import Anchor, Finding, VerifyReport
    from stargraph.cli._store import StoreRef

_SHOWN: Final = 100
"""How many lines of each kind are printed; --json has all."""


def verify(
    run_id: RunIdsArgument = None,
    everything: AllOption = False,
    anchor: Annotated[
        str | None, typer.Option(metavar="FILE", help="Compare with the heads that `stargraph anchor` wrote.")
    ] = None,
    children: ChildrenOption = True,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Read runs from their first step to their last, and report everything that is not as it was written.

    Without RUN_ID, every run of the store is read. The exit code is 0 if all is sound, else 7.
    With STARGRAPH_INTEGRITY_KEY the seals are checked too; without a key, a whole chain can be forged.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import StoreRef

    if run_id and everything:
        raise StargraphError(
            "run ids cannot be combined with --all", reason="invalid-arguments", hint="Name runs, or give --all."
        )
    report, known = run_async(_verify(StoreRef(checkpoint, encryption_keys), run_id or None, anchor, children=children))
    if json:
        print_json({**report.model_dump(mode="json"), "sound": report.sound})
    else:
        print_lines(_in_words(report, known))
    if not report.sound:
        if not json:
            runs = len({finding.run_id for finding in report.findings})
            print_error(
                f"not as it was written: {plural(len(report.findings), 'finding')} in {plural(runs, 'run')}",
                "docs/audit.md says what each kind means and what to do.",
            )
        raise typer.Exit(ExitCode.STORE)


def anchor(
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="The file to write; stdout if not given.")] = "-",
    renew: Annotated[
        bool, typer.Option("--renew", help="Write it even if the store contradicts the existing file.")
    ] = False,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
) -> None:
    """Write the latest step and digest of every run, for a later `verify --anchor`.

    Keep the file where nobody who can write to the store can change it. If FILE exists already, the store is
    compared with it first, and an anchor that contradicts the former one is not written.
    """
    from stargraph.cli._execution import run_async
    from stargraph.cli._store import StoreRef

    there = os.path.exists(file)  # noqa: PTH110  # Path.exists raises for a name that is too long
    former = file if file != "-" and there and not renew else None
    made = run_async(_anchor(StoreRef(checkpoint, encryption_keys), former))
    with output_file(file) as stream:
        stream.write(made.to_json().encode())
    if file != "-":
        sealed = f"sealed with {made.seal.key_id}" if made.seal else "not sealed, since there is no key"
        emit(f"anchored {plural(len(made.runs), 'run')} in {file}, {sealed}", sys.stderr)


async def _verify(
    ref: StoreRef, run_ids: list[str] | None, file: str | None, *, children: bool
) -> tuple[VerifyReport, Anchor | None]:
    from stargraph.audit import verify as check
    from stargraph.cli._run_ids import find_run_ids
    from stargraph.cli._store import keyring

    keys = keyring()
    known = None if file is None else _read_anchor(file)
    async with ref.opened("read") as store:
        run_ids = await find_run_ids(store, run_ids)
        with progress_on_stderr("verifying", await count_runs(store, run_ids)) as progress:
            report = await check(store, run_ids, children=children, keyring=keys, anchor=known, progress=progress)
            return report, known


async def _anchor(ref: StoreRef, former: str | None) -> Anchor:
    from stargraph.audit import anchor as make
    from stargraph.cli._store import keyring

    after = None if former is None else _read_anchor(former)
    async with ref.opened("read") as store:
        with progress_on_stderr("anchoring", await count_runs(store, None)) as progress:
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


def _in_words(report: VerifyReport, known: Anchor | None) -> list[str]:
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
