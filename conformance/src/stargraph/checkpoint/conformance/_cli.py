"""The command line: `stargraph-conformance run package.module:target`."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stargraph.checkpoint.conformance._catalogue import catalogue, find
from stargraph.checkpoint.conformance._certificate import KEY_VARIABLE, make_key, parse_key, sign, verify
from stargraph.checkpoint.conformance._changes import changes, verdicts
from stargraph.checkpoint.conformance._expect import HarnessError
from stargraph.checkpoint.conformance._jobs import STANDSTILL, exit_when_terminated
from stargraph.checkpoint.conformance._render import (
    show_catalogue,
    show_check,
    show_report,
    to_badge,
    to_junit,
    to_markdown,
)
from stargraph.checkpoint.conformance._report import Report, Result, kit_version
from stargraph.checkpoint.conformance._run import drawn, run_checks, select
from stargraph.checkpoint.conformance._runner import Session
from stargraph.checkpoint.registry import redact_text

_HYPOTHESIS_VARIABLE: Final = "HYPOTHESIS_STORAGE_DIRECTORY"

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stargraph-conformance {kit_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Prove that a Stargraph checkpoint driver keeps the contract."""


@app.command("run")
def run_command(
    target: Annotated[
        str | None, typer.Argument(help="The driver under test, as package.module:name.", show_default=False)
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run these: an id, a group, or a pattern with *. Can be repeated.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out child processes and whatever takes long.")] = False,
    seed: Annotated[int | None, typer.Option(help="Repeat the chance of an earlier run.")] = None,
    deadline: Annotated[float, typer.Option(help="Give every check this many times its usual seconds.", min=0.01)] = 1,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", help="Run so many checks side by side, each in its own process.", min=1)
    ] = 1,
    json_file: Annotated[
        str | None, typer.Option("--json", help="Write the report as JSON to this file; - is stdout.")
    ] = None,
    junit: Annotated[str | None, typer.Option(help="Write the report as JUnit XML to this file; - is stdout.")] = None,
    markdown: Annotated[
        str | None, typer.Option(help="Write the report as Markdown to this file; - is stdout.")
    ] = None,
    badge: Annotated[str | None, typer.Option(help="Write the level as an SVG to this file; - is stdout.")] = None,
    certificate: Annotated[
        str | None, typer.Option(help=f"Write the report, signed with the key in {KEY_VARIABLE}, to this file.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Copy the stores of checks that fail into this folder, if they are files.")
    ] = None,
    list_checks: Annotated[bool, typer.Option("--list", help="Show the checks, run nothing.")] = False,
    explain: Annotated[str | None, typer.Option(help="Show all about one check, run nothing.", metavar="ID")] = None,
) -> None:
    """Run the checks against a driver.

    Once it is interrupted, by ctrl-C or SIGTERM, it reports the verdicts until then, without a level or a certificate.

    Exit codes: 0 conformant, 1 violations, 2 nothing or only partly evaluated, 3 the kit or its surroundings failed,
    130 ctrl-C, 143 SIGTERM.
    """
    forms: dict[Callable[[Report], str], str | None] = {
        _to_json_text: json_file,
        to_junit: junit,
        to_markdown: markdown,
        to_badge: badge,
        _to_certificate: certificate,
    }
    wanted = {form: destination for form, destination in forms.items() if destination is not None}
    destinations = list(wanted.values())
    console = Console(stderr="-" in destinations, soft_wrap=True, highlight=False, emoji=False)
    try:
        if explain is not None:
            check = find(explain)
            if check is None:
                raise HarnessError(f"no check has the id {explain!r}; --list shows them all")
            show_check(check, console)
            return
        if list_checks:
            show_catalogue(select(tuple(only or ()), quick=quick), console)
            return
        if target is None:
            raise HarnessError("name the driver under test, as package.module:name")
        _ensure_apart(destinations)
        for destination in destinations:
            if destination != "-":
                _ensure_writable(destination)
        if keep is not None:
            _ensure_folder(keep)
        if certificate is not None:
            parse_key(os.environ.get(KEY_VARIABLE, ""))
        report = _with_progress(target, tuple(only or ()), quick, seed, deadline, keep, jobs)
    except HarnessError as error:
        typer.secho(f"error: {_shown(str(error))}", fg="red", err=True)
        raise typer.Exit(3) from error
    show_report(report, console)
    for form, destination in wanted.items():
        # An interrupted run has proved no level.
        if report.interrupted is not None and form in (to_badge, _to_certificate):
            continue
        if destination == "-":
            sys.stdout.write(form(report))
        else:
            Path(destination).write_text(form(report), encoding="utf-8")
    _leave(report.exit_code)


def _ensure_apart(destinations: list[str]) -> None:
    """Refuse two reports in one place, where the second one would replace the first."""
    places = [each if each == "-" else os.path.realpath(each) for each in destinations]
    for number, destination in enumerate(destinations):
        if places[number] in places[:number]:
            where = "stdout" if destination == "-" else destination
            raise HarnessError(f"two reports would go to {where}: give each one a file of its own")


def _ensure_writable(destination: str) -> None:
    """Find out before the checks are run, not after, that a report cannot be written; leave no file behind."""
    file = Path(destination)
    known = file.exists()
    try:
        with file.open("a", encoding="utf-8"):
            pass
        if not known:
            file.unlink()
    except OSError as error:
        raise HarnessError(f"the report cannot be written to {destination}: {error.strerror}") from error


def _ensure_folder(folder: Path) -> None:
    """Find out before the checks are run that no store can be kept in a folder; leave nothing behind."""
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for each in made:
            each.rmdir()
    except OSError as error:
        raise HarnessError(f"no stores can be kept in {folder}: {error.strerror}") from error


def _to_json_text(report: Report) -> str:
    return json.dumps(report.to_json(), indent=2) + "\n"


def _to_certificate(report: Report) -> str:
    return json.dumps(sign(report.to_json(), os.environ[KEY_VARIABLE]), indent=2) + "\n"


def _loaded(file: Path) -> dict[str, Any]:
    try:
        found: object = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # the second one if it is nested too deep
        raise HarnessError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise HarnessError(f"{file} is neither a report nor a certificate")
    return found


def _verdicts(file: Path) -> dict[str, str]:
    """Return the verdicts of the report in a file, or in the certificate in it."""
    found = _loaded(file)
    try:
        return verdicts(found.get("report", found))
    except (KeyError, TypeError, AttributeError) as error:
        raise HarnessError(
            f"{file} is no report: give a file that `run --json` or `run --certificate` wrote"
        ) from error


def _verified(file: Path, signer: str | None) -> tuple[str, str, str]:
    """Return which driver a certificate is of, the public key that it names, and how far the driver is proved."""
    found = _loaded(file)
    try:
        public_key, report = found["public_key"], verify(found, signer)
        versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
        return (
            f"{report['driver']} ({versions or 'no versions declared'})",
            public_key,
            f"level {report['level']}, contract {report['contract']}, kit {report['kit']}, {report['date']}",
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise HarnessError(f"{file} is no certificate: give a file that `run --certificate` wrote") from error


@app.command("verify")
def verify_command(
    certificate: Annotated[Path, typer.Argument(help="The file that `run --certificate` wrote.", show_default=False)],
    signer: Annotated[
        str | None, typer.Option(help="The public key of whoever must have signed it.", show_default=False)
    ] = None,
) -> None:
    """Check that a certificate was not changed after it was signed, and who signed it.

    Exit codes: 0 it was not, 3 it was, or somebody else than --signer signed it.
    """
    try:
        driver, public_key, outcome = _verified(certificate, signer)
    except HarnessError as error:
        typer.secho(f"error: {_shown(str(error))}", fg="red", err=True)
        raise typer.Exit(3) from error
    typer.echo(driver)
    typer.echo(f"signed with the private key of {public_key}")
    if signer is None:
        typer.echo("compare that with the key that its publisher gives, or name it with --signer", err=True)
    typer.echo(outcome)


@app.command("key")
def key_command() -> None:
    """Make a key that signs certificates: the private part for STARGRAPH_CONFORMANCE_KEY, the public one to publish."""
    try:
        private, public = make_key()
    except HarnessError as error:
        typer.secho(f"error: {_shown(str(error))}", fg="red", err=True)
        raise typer.Exit(3) from error
    typer.echo(f"private: {private}")
    typer.echo(f"public: {public}")


@app.command("compare")
def compare_command(
    old: Annotated[Path, typer.Argument(help="The report of a run, or its certificate.", show_default=False)],
    new: Annotated[Path, typer.Argument(help="A later one.", show_default=False)],
) -> None:
    """Show which checks changed their verdict from one report to another.

    Exit codes: 0 none got worse, 1 some did, 3 one of the files is no report.
    """
    try:
        found = list(changes(_verdicts(old), _verdicts(new)))
    except HarnessError as error:
        typer.secho(f"error: {_shown(str(error))}", fg="red", err=True)
        raise typer.Exit(3) from error
    for check_id, was, now in found:
        typer.echo(f"{check_id}: {was} -> {now}")
    raise typer.Exit(1 if any(was == "pass" for _, was, _ in found) else 0)


def _with_progress(
    target: str, only: tuple[str, ...], quick: bool, seed: int | None, deadline: float, keep: Path | None, jobs: int
) -> Report:
    """Run the checks; return the report, also if something interrupted them."""
    chosen = select(only, quick=quick)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    errors = Console(stderr=True, emoji=False)
    with (
        _stacks_of_a_standstill(),
        _hypothesis_elsewhere(),
        Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress,
        Session(target, drawn(seed), deadline, thorough=not quick, keep=keep) as session,
    ):
        bar = progress.add_task("starting", total=len(chosen))

        def advance(result: Result) -> None:
            progress.update(bar, description=f"{result.check.id:<42}", advance=1)

        try:
            run_checks(session, chosen, jobs=jobs, progress=advance)
        except KeyboardInterrupt:
            return session.report(interrupted=130)
        except SystemExit as terminated:
            return session.report(interrupted=terminated.code if isinstance(terminated.code, int) else 1)
        return session.report()


@contextmanager
def _stacks_of_a_standstill() -> Iterator[None]:
    """Tell on stderr what each thread does if the interpreter stands still: a call that waits and holds the GIL.

    Nothing in this process can end that call, or the process. With --jobs, another process can.
    """
    ended, stderr = threading.Event(), sys.__stderr__
    if stderr is None:
        yield
        return

    def postpone() -> None:
        while True:
            faulthandler.dump_traceback_later(STANDSTILL, file=stderr)
            if ended.wait(1):
                return

    thread = threading.Thread(target=postpone, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def _hypothesis_elsewhere() -> Iterator[None]:
    """Let Hypothesis, which would leave a directory beside the user's files, store in one that goes away."""
    if _HYPOTHESIS_VARIABLE in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="stargraph-conformance-") as scratch:
        os.environ[_HYPOTHESIS_VARIABLE] = scratch
        try:
            yield
        finally:
            del os.environ[_HYPOTHESIS_VARIABLE]
            if (configuration := sys.modules.get("hypothesis.configuration")) is not None:
                configuration.set_hypothesis_home_dir(None)


def _leave(code: int) -> None:
    """End the process, at once if a check had to be left behind: its driver may hold the interpreter."""
    sys.stdout.flush()
    sys.stderr.flush()
    known = {check.id for check in catalogue()}
    if any(thread.name in known for thread in threading.enumerate()):
        os._exit(code)
    raise typer.Exit(code)


def main() -> None:
    """Run the command line; what it says of its arguments holds none of their secrets."""
    exit_when_terminated()
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        raise SystemExit(130) from None
    except Exception as error:
        # The option parser's own; their classes differ between versions of typer.
        if not hasattr(error, "format_message"):
            raise
        is_help = type(error).__name__ == "NoArgsIsHelpError"
        typer.echo(("" if is_help else "error: ") + _shown(error.format_message()), err=True)
        raise SystemExit(2) from None
    raise SystemExit(code)


def _shown(message: str) -> str:
    return redact_text(message, sys.argv[1:])
