"""Every workload runs at a tiny size and notices wrong answers; no time is asserted anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.postgres_server import any_server
from support.s3.servers import moto_server
from support.workspace import ROOT

from stargraph_bench import _trend
from stargraph_bench._bench import IMPORT
from stargraph_bench._contender import CONTENDERS, Contender, Place, WrongAnswerError
from stargraph_bench._figures import Figures, Spread, shown, times
from stargraph_bench._goals import Goal, load_goals
from stargraph_bench._machine import Machine
from stargraph_bench._overview import overview
from stargraph_bench._publish import draw, insert
from stargraph_bench._raw import RawSQLite
from stargraph_bench._report import report
from stargraph_bench._runs import Run, State
from stargraph_bench._workloads import WORKLOADS, Workload

pytestmark = pytest.mark.thorough

MACHINE = Machine(
    at="2026-01-01T00:00:00+00:00", commit="aaaa", system="X", cores=2, load=0.1, sync_us=200, versions={"python": "3"}
)

CASES = [
    pytest.param(store, workload, name, id=f"{store}-{workload.name}-{name}")
    for store, contenders in CONTENDERS.items()
    for workload in WORKLOADS
    for name, entry in contenders.items()
    if store in workload.stores and name in workload.contenders and entry.installed
]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with any_server() as dsn:
        yield dsn


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = request.node.callspec.params["store"]
    dsn = request.getfixturevalue("postgres") if store == "postgres" else ""
    s3 = request.getfixturevalue("moto") if store == "s3" else ""
    return Place(tmp_path, dsn=dsn, s3=s3)


@pytest.mark.parametrize(("store", "workload", "name"), CASES)
async def test_a_workload_runs_and_measures_what_the_goals_ask_for(
    store: str, workload: Workload, name: str, place: Place
) -> None:
    contender = CONTENDERS[store][name].make(place)
    await workload.begin(contender, "tiny")
    measures = await workload.measure(contender, "tiny", 1)
    await workload.end(contender)
    assert all(value > 0 for value in measures.values())
    kinds = {measure.partition("@")[0] for measure in measures}
    prefix = f"{store}/{workload.name}/{name}/"
    asked = {address for goal in load_goals() for address in (goal.measure, goal.against)}
    assert {address.removeprefix(prefix).partition("@")[0] for address in asked if address.startswith(prefix)} <= kinds
    assert not list(place.folder.iterdir())


def test_the_goals_name_what_is_measured() -> None:
    workloads = {workload.name: workload for workload in WORKLOADS}
    for goal in load_goals():
        assert (goal.at_least is None) != (goal.at_most is None), goal.goal
        for address in filter(None, (goal.measure, goal.against)):
            store, workload, contender, _ = address.split("/")
            assert contender in CONTENDERS[store], address
            if workload != IMPORT:
                assert store in workloads[workload].stores, address
                assert contender in workloads[workload].contenders, address


class Forgetful(RawSQLite):
    """Loses the last field of every state that it reads."""

    async def at_step(self, run: Run, step: int) -> State:
        state = await super().at_step(run, step)
        state.popitem()
        return state


@pytest.mark.parametrize("workload", [one for one in WORKLOADS if "raw" in one.contenders], ids=lambda one: one.name)
async def test_a_wrong_answer_is_no_measurement(workload: Workload, tmp_path: Path) -> None:
    contender: Contender = Forgetful(Place(tmp_path))

    async def measure() -> None:
        await workload.begin(contender, "tiny")
        await workload.measure(contender, "tiny", 1)

    with pytest.raises(WrongAnswerError, match="Forgetful: the state at step"):
        await measure()


def figures_of(rate: float, raw: float = 100.0) -> Figures:
    figures = Figures()
    for factor in (0.9, 1.0, 1.1):
        figures.add("sqlite/small/stargraph", {"rate": rate * factor, "bytes": 312_000})
        figures.add("sqlite/small/langgraph", {"rate": 50.0 * factor, "bytes": 20_300_000})
        figures.add("sqlite/small/raw", {"rate": raw * factor, "bytes": 20_000_000})
    return figures


def test_ratios_are_taken_repeat_by_repeat() -> None:
    figures = Figures()
    for ours, theirs in ((10, 1), (40, 20), (3, 3)):
        figures.add("sqlite/small/stargraph", {"rate": ours})
        figures.add("sqlite/small/raw", {"rate": theirs})
    assert figures.ratio("sqlite/small/stargraph/rate", "sqlite/small/raw/rate") == Spread(2, 1, 10, 3)
    assert figures.ratio("sqlite/small/stargraph/rate", "sqlite/small/burr/rate") is None


def test_a_goal_is_met_or_missed_by_the_median() -> None:
    goals = [
        Goal("fast", "sqlite/small/stargraph/rate", "sqlite/small/langgraph/rate", at_least=1.8),
        Goal("small", "sqlite/small/stargraph/bytes", "sqlite/small/langgraph/bytes", at_most=1 / 60),
        Goal("steady", "sqlite/small/stargraph/rate", at_least=101),
        Goal("within", "sqlite/small/stargraph/rate", at_least=95),
        Goal("elsewhere", "postgres/small/stargraph/rate", at_least=1),
    ]
    text = report(figures_of(100), goals, MACHINE, "default")
    assert "### Goals: 3 of 4 met" in text
    assert "| fast | ≥ 1.80× | 2.00× | 2.00× – 2.00× | met |" in text
    assert "| small | ≤ 1/60 | 1/65 | 1/65 – 1/65 | met |" in text
    assert "| steady | ≥ 101/s | 100/s | 90/s – 110/s | **missed** |" in text
    assert "| within | ≥ 95/s | 100/s | 90/s – 110/s | met |" in text
    assert "elsewhere" not in text
    assert "| langgraph | 50/s (45/s – 55/s); ours 2.00× | 20.3 MB; ours 1/65 |" in text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("rate", 1234.4, "1,234/s"),
        ("p99_ms", 0.0123, "0.012 ms"),
        ("write_ms@1000", 12.34, "12.3 ms"),
        ("bytes", 312_000, "312 KB"),
        ("bytes_a_step@10", 800, "800 B"),
        ("seconds", 0.1239, "0.124 s"),
        ("rows_a_commit", 27.04, "27.0"),
    ],
)
def test_values_are_shown_with_their_units(name: str, value: float, text: str) -> None:
    assert shown(name, value) == text


def test_ratios_are_shown_as_people_say_them() -> None:
    assert [times(value) for value in (23.4, 1.0, 0.65, 1 / 140)] == ["23.4×", "1.00×", "0.65×", "1/140"]


def test_the_trend_compares_measurements_beside_raw(tmp_path: Path) -> None:
    trend = tmp_path / "trend.jsonl"
    _trend.append(trend, figures_of(100), MACHINE, "default")
    _trend.append(trend, figures_of(300, raw=200), MACHINE, "default")
    first, second = _trend.load(trend)
    assert _trend.pick([first, second], "aaaa") is second
    table = _trend.compare(first, second)
    assert "| sqlite/small/stargraph/rate | 100 | 300 | 3.00× | 1.50× | better |" in table
    assert "**worse**" in _trend.compare(second, first)
    _trend.append(trend, figures_of(105), MACHINE, "default")
    assert "| sqlite/small/stargraph/rate | 100 | 105 | 1.05× | 1.05× |  |" in _trend.compare(
        first, _trend.load(trend)[2]
    )
    assert "/raw/" not in table.replace("beside raw", "")


def test_one_repeat_alone_changes_nothing_and_sizes_must_be_equal(tmp_path: Path) -> None:
    trend = tmp_path / "trend.jsonl"
    for rate, scale in ((100, "default"), (50, "default"), (50, "quick")):
        figures = Figures()
        figures.add("sqlite/growth/stargraph", {"latest_ms@1000": rate})
        _trend.append(trend, figures, MACHINE, scale)
    before, after, quick = _trend.load(trend)
    assert "| sqlite/growth/stargraph/latest_ms@1000 | 100 | 50 | 0.50× | – |  |" in _trend.compare(before, after)
    with pytest.raises(_trend.TrendError, match=r"has default sizes and aaaa .* quick ones"):
        _trend.compare(after, quick)


def test_the_trend_names_no_place(tmp_path: Path) -> None:
    trend = tmp_path / "trend.jsonl"
    _trend.append(trend, figures_of(100), Machine.look(tmp_path), "quick")
    text = trend.read_text()
    assert str(tmp_path) not in text
    assert str(ROOT) not in text
    assert json.loads(text)["machine"]["sync_us"] > 0


def test_a_measurement_is_published_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("# P\n\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n")
    insert("the report", page, "measured")
    assert page.read_text() == "# P\n\n<!-- measured: begin -->\n\nthe report\n\n<!-- measured: end -->\nafter\n"
    page.write_text("# P\n")
    with pytest.raises(ValueError, match=r"performance\.md has no <!-- measured: begin -->"):
        insert("the report", page, "measured")


def test_the_page_begins_with_what_a_user_gets_and_what_is_missed() -> None:
    figures = Figures(
        {
            "sqlite/engine-small/stargraph-engine/rate": [1500.0, 1600.0],
            "sqlite/engine-small/langgraph-engine/rate": [600.0, 500.0],
            "sqlite/small/stargraph/rate": [2000.0],
        }
    )
    goals = [
        Goal("met", "sqlite/small/stargraph/rate", at_least=1000),
        Goal("not reached", "sqlite/small/stargraph/rate", at_least=2500),
        Goal("not measured", "s3/small/stargraph/rate", at_least=1),
    ]
    text = overview(figures, goals, MACHINE)
    assert "| an engine's loop over one node, 1 KB of state | 1,550/s; LangGraph 550/s; 2.85× |" in text
    assert "| a write of our driver alone, 1 KB of state | 2,000/s |" in text
    assert "PostgreSQL" not in text
    assert text.endswith("1 are met, and these are missed:\n\n- not reached: 2,000/s, wanted ≥ 2,500/s")


def test_the_same_figures_give_the_same_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="make bench installs it, in an environment of its own")
    first, second = (tmp_path / name for name in "ab")
    for folder in (first, second):
        assert draw(figures_of(100), folder) == {
            "sqlite-rate.svg": "SQLite: steps a second, each divided by LangGraph's",
            "sqlite-bytes.svg": "SQLite: bytes of the store, each divided by LangGraph's",
        }
    assert (first / "sqlite-rate.svg").read_text().startswith("<?xml")
    assert (first / "sqlite-rate.svg").read_bytes() == (second / "sqlite-rate.svg").read_bytes()


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("benchmarks", "tests"))
    command = [sys.executable, "-m", "stargraph_bench", *arguments]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)


def test_the_command_measures_in_processes_of_their_own(tmp_path: Path) -> None:
    picked = ["--only", "sqlite", "--workload", "small", "--contender", "stargraph", "--contender", "raw"]
    done = bench("--tiny", *picked, "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "**The sizes are those of --tiny" in done.stdout
    assert "| SQLite: thread hops a write |" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--workload small --repeats 0", "--repeats is 1 or more"),
        ("--workload import --contender langgraph-engine", "nothing was measured"),
        ("run small", "only compare takes 'small'"),
        ("profile small", "only compare takes 'small'"),
        ("--workload small --folder {absent}", "there is no directory"),
    ],
)
def test_the_command_refuses_what_would_measure_nothing(arguments: str, said: str, tmp_path: Path) -> None:
    done = bench(*arguments.format(absent=tmp_path / "absent").split(), "--tiny", "--only", "sqlite")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_the_command_says_what_it_cannot_compare(tmp_path: Path) -> None:
    done = bench("compare", "--trend", str(tmp_path / "none.jsonl"))
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "error: none.jsonl: No such file or directory; measure first, or name another file with --trend\n"
    )
    trend = tmp_path / "trend.jsonl"
    trend.write_text("{}\n")
    done = bench("compare", "--trend", str(trend))
    assert done.stderr.startswith("error: trend.jsonl:1: this is not a measurement: ")
    trend.unlink()
    _trend.append(trend, figures_of(100), MACHINE, "default")
    assert bench("compare", "--trend", str(trend)).stderr == "error: there is no measurement -2: the file has 1\n"
    assert "no measurement of commit bbbb" in bench("compare", "bbbb", "aaaa", "--trend", str(trend)).stderr
