"""What every test shares."""

import compileall
import gc
import os
import signal
import sys
import tempfile
import time
from itertools import islice

import pytest
from hypothesis import HealthCheck, settings
from support.fixed_examples import draw_no_constants_of_modules
from support.session_fixtures import postgres, s3, wheels  # noqa: F401
from support.workspace import ROOT

from stargraph_torture.seeds import SEED_VARIABLE, short_seed

# A busy machine must not fail a test. The gate tries the same examples each time, so that it judges the change and not
# chance; `make torture` draws new ones, and a failure prints its blob.
settings.register_profile(
    "torture", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow], derandomize=False
)
settings.register_profile("stargraph", settings.get_profile("torture"), derandomize=True, database=None)
settings.load_profile("stargraph")
draw_no_constants_of_modules()

LONG_SECONDS = 300

# What is compiled up to the end of the collection is kept: the other processes and the hundreds that the tests start
# would compile it again. What tests write is not: they write the same module again within a second.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
sys.dont_write_bytecode = False


# What a terminal or a CI service sets; the commands that tests run would print what these say.
TERMINAL_VARIABLES = ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "COLUMNS", "LINES", "TZ")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help=f"of the tests that torture stores; the same as {SEED_VARIABLE}")


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        _compile_sources()
    if _runs_tests(config):
        _keep_what_is_left(config)
    # A shell ignores SIGINT in what it starts in the background, and the programs that tests interrupt inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    seed = config.getoption("--seed")
    if seed is not None:
        os.environ[SEED_VARIABLE] = str(seed)


def _runs_tests(config: pytest.Config) -> bool:
    """Return whether this process runs the tests itself, and does not only hand them out."""
    return "PYTEST_XDIST_WORKER" in os.environ or not config.getoption("numprocesses", None)


def pytest_sessionstart(session: pytest.Session) -> None:
    # Not before: pytest itself has looked at them by now.
    if _runs_tests(session.config):
        for name in TERMINAL_VARIABLES:
            os.environ.pop(name, None)
        time.tzset()


def _compile_sources() -> None:
    """Compile what has changed: plugins import a part of it before collection begins, and processes another part."""
    for folder in (*ROOT.glob("packages/*/src"), ROOT / "conformance/src", ROOT / "tests/support", ROOT / "torture"):
        compileall.compile_dir(folder, quiet=2)


def _keep_what_is_left(config: pytest.Config) -> None:
    """Have the temporary files of all processes that tests start, and often kill, in a folder that goes at the end."""
    folder = tempfile.TemporaryDirectory(prefix="stargraph-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    os.chmod(folder.name, 0o1777)  # noqa: S103  # as the system's own: servers run as other users
    os.environ["TMPDIR"] = folder.name


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that have a longer timeout than the others, so that no core waits for one at the end.

    xdist gives each worker a slice of the list, in order: each slice begins with its share of them. Those that follow
    one another stay together, since they often use the same servers.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if _timeout_of(item) >= LONG_SECONDS]
    others = iter([item for item in items if _timeout_of(item) < LONG_SECONDS])
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        size = (len(items) - len(ordered)) // (workers - worker)
        share = long[len(long) * worker // workers : len(long) * (worker + 1) // workers]
        ordered += [*share, *islice(others, max(size - len(share), 0))]
    items[:] = [*ordered, *others]


def _timeout_of(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return 0.0 if marker is None else float(marker.args[0])


def pytest_collection_finish() -> None:
    sys.dont_write_bytecode = True
    # Ten thousand tests and their modules stay to the end: a full collection of garbage need not look at them.
    gc.freeze()


def pytest_report_header() -> str:
    return f"seed of the torture: {short_seed()}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int | pytest.ExitCode, config: pytest.Config
) -> None:
    # The header says it too, but `-q` leaves that out.
    if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        seed = config.getoption("randomly_seed", None)
        terminalreporter.write_line(f"the same order again: --randomly-seed={seed}")
