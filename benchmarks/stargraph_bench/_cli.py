"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from stargraph_bench import _trend
from stargraph_bench._bench import IMPORT, Selection, run
from stargraph_bench._contender import CONTENDERS
from stargraph_bench._goals import load_goals
from stargraph_bench._machine import Machine
from stargraph_bench._overview import overview
from stargraph_bench._report import report
from stargraph_bench._workloads import WORKLOADS

_ROOT = Path(__file__).parents[2]
_TREND = _ROOT / "benchmarks" / "trend.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, compare two measurements, or profile a write; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.which and options.command != "compare":
        parser.error(f"only compare takes {' '.join(options.which)!r}: name workloads with --workload")
    if options.repeats is not None and options.repeats < 1:
        parser.error("--repeats is 1 or more")
    if not options.folder.is_dir():
        parser.error(f"--folder: there is no directory {str(options.folder)!r}")
    try:
        return {"run": _measure, "compare": _compare, "profile": _profile}[options.command](options)
    except _trend.TrendError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stargraph_bench",
        description="Measure the drivers beside those of other projects and beside the bare media.",
    )
    parser.add_argument("command", nargs="?", choices=["run", "compare", "profile"], default="run")
    parser.add_argument(
        "which", nargs="*", help="compare: two commits or positions in the trend; default: the last two"
    )
    parser.add_argument("--trend", type=Path, default=_TREND, help="the file of measurements, a JSON line each")
    parser.add_argument("--only", action="append", choices=list(CONTENDERS), help="only this kind of store; repeatable")
    names = [*(workload.name for workload in WORKLOADS), IMPORT]
    parser.add_argument("--workload", action="append", choices=names, help="only this workload; repeatable")
    contenders = list(dict.fromkeys(name for store in CONTENDERS.values() for name in store))
    parser.add_argument("--contender", action="append", choices=contenders, help="only this one; repeatable")
    parser.add_argument("--repeats", type=int, help="how often, instead of as often as each workload says")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", dest="scale", action="store_const", const="quick", help="small sizes: two minutes")
    scale.add_argument("--full", dest="scale", action="store_const", const="full", help="up to a million checkpoints")
    scale.add_argument("--tiny", dest="scale", action="store_const", const="tiny", help="only show that all of it runs")
    # /var/tmp is on a disk on most systems, where /tmp may be in memory.
    large = next(folder for folder in ("/var/tmp", tempfile.gettempdir()) if Path(folder).is_dir())
    parser.add_argument(
        "--folder", type=Path, default=Path(large), help=f"a directory on the disk to measure; default: {large}"
    )
    parser.add_argument("--dsn", help="a PostgreSQL superuser's DSN; default: an embedded server with fsync on")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="add a line to the trend, and put the report and the plots into docs/performance.md",
    )
    parser.set_defaults(scale="default")
    return parser


def _measure(options: argparse.Namespace) -> int:
    machine = Machine.look(options.folder)
    selection = Selection(
        scale=options.scale,
        stores=options.only or list(CONTENDERS),
        workloads=options.workload or (),
        contenders=options.contender or (),
        repeats=options.repeats,
    )
    figures = run(selection, options.folder, options.dsn, lambda text: print(text, file=sys.stderr, flush=True))
    if not figures.values and not figures.failures:
        print(
            "error: nothing was measured: no contender that is picked and installed takes part in it", file=sys.stderr
        )
        return 2
    goals = load_goals()
    text = report(figures, goals, machine, options.scale)
    print(text)
    if options.publish:
        from stargraph_bench._publish import publish

        _trend.append(options.trend, figures, machine, options.scale)
        publish(figures, overview(figures, goals, machine), text, _ROOT / "docs")
    return 1 if figures.failures else 0


def _compare(options: argparse.Namespace) -> int:
    entries = _trend.load(options.trend)
    which = options.which or ["-2", "-1"]
    if len(which) != 2:
        raise _trend.TrendError(f"compare takes two measurements, and {len(which)} were named")
    print(_trend.compare(*(_trend.pick(entries, one) for one in which)))
    return 0


def _profile(options: argparse.Namespace) -> int:
    from stargraph_bench._profile import profile

    print(profile(options.folder))
    return 0
