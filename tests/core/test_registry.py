"""Drivers are found by their entry points."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stargraph.checkpoint.registry import (
    ENTRY_POINT_GROUP,
    DriverInfo,
    installed_drivers,
    open_checkpointer,
    redact,
)
from stargraph.errors import DriverNotFoundError

Install = Callable[..., None]

GOOD = """
class Store:
    def __init__(self, url):
        self.url = url

    @classmethod
    def from_url(cls, url):
        return cls(url)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with one driver, as far as importlib.metadata can tell."""

    def install(scheme: str, target: str, *, name: str, source: str | None = GOOD) -> None:
        site = tmp_path / name
        info = site / f"{name.replace('-', '_')}-2.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{scheme} = {target}\n")
        module = target.partition(":")[0]
        if source is not None:
            (site / f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(str(site))

    return install


@pytest.fixture
def nothing_installed(tmp_path: Path) -> Iterator[None]:
    """Hide every distribution: only what a test installs is found."""
    # Not the test's own monkeypatch: undoing its syspath_prepend would empty the real path.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path / "empty")])
        assert not installed_drivers()
        yield


def test_a_driver_is_listed_without_importing_it(install: Install) -> None:
    install("mystore", "my_driver:Store", name="my-driver", source="raise SystemExit('imported')")
    assert DriverInfo("mystore", "my_driver:Store", "my-driver", "2.5") in installed_drivers()
    assert "my_driver" not in sys.modules


def test_drivers_are_listed_by_scheme(install: Install) -> None:
    for scheme in ("zz", "aa", "mm"):
        install(scheme, f"driver_{scheme}:Store", name=f"driver-{scheme}")
    listed = [info.scheme for info in installed_drivers()]
    assert listed == sorted(listed)
    assert {"aa", "mm", "zz"} <= set(listed)


@pytest.mark.parametrize("url", ["mystore://host/db", "MyStore://host/db", "mystore://"])
def test_a_url_goes_to_its_driver_as_it_is(install: Install, url: str) -> None:
    install("mystore", "my_driver:Store", name="my-driver")
    store = open_checkpointer(url)
    assert store.url == url  # type: ignore[attr-defined]


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("path", ["./run.sqlite", "run", "", "C:\\x", "sqlite:relative", "a://b"[1:], "1x://y"])
def test_anything_else_is_a_path(install: Install, path: str) -> None:
    install("sqlite", "my_driver:Store", name="my-driver")
    assert open_checkpointer(path).url == path  # type: ignore[attr-defined]
    assert open_checkpointer(Path("a") / "b").url == str(Path("a") / "b")  # type: ignore[attr-defined]


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("url", "distribution"),
    [
        ("./run.sqlite", "stargraph-checkpoint-sqlite"),
        ("sqlite:///x", "stargraph-checkpoint-sqlite"),
        ("postgresql://h/db", "stargraph-checkpoint-postgres"),
        ("postgres://h/db", "stargraph-checkpoint-postgres"),
        ("s3://bucket/prefix", "stargraph-checkpoint-s3"),
    ],
)
def test_a_missing_driver_names_the_command_that_installs_it(url: str, distribution: str) -> None:
    with pytest.raises(DriverNotFoundError) as raised:
        open_checkpointer(url)
    assert raised.value.reason == "driver-not-found"
    assert raised.value.hint == f"Install its driver: pip install {distribution}"


@pytest.mark.usefixtures("nothing_installed")
def test_an_unknown_scheme_says_what_is_there(install: Install) -> None:
    with pytest.raises(DriverNotFoundError, match=r"redis://u:\*\*\*@h: no installed driver opens redis://") as raised:
        open_checkpointer("redis://u:hunter2@h")
    assert (
        raised.value.hint
        == f"Installed: none. A driver registers its scheme in the entry-point group {ENTRY_POINT_GROUP!r}."
    )
    install("mystore", "my_driver:Store", name="my-driver")
    with pytest.raises(DriverNotFoundError) as raised:
        open_checkpointer("redis://h")
    assert "Installed: mystore://." in str(raised.value)


def test_two_drivers_of_one_scheme_are_refused(install: Install) -> None:
    install("mystore", "one_driver:Store", name="one-driver")
    install("mystore", "two_driver:Store", name="two-driver")
    with pytest.raises(DriverNotFoundError) as raised:
        open_checkpointer("mystore://u:hunter2@h")
    assert raised.value.reason == "ambiguous-driver"
    assert "one-driver (one_driver:Store), two-driver (two_driver:Store)" in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert not {"one_driver", "two_driver"} & set(sys.modules)


def test_one_class_from_two_distributions_is_no_conflict(install: Install) -> None:
    install("mystore", "my_driver:Store", name="my-driver")
    install("mystore", "my_driver:Store", name="my-driver-again")
    assert open_checkpointer("mystore://h").url == "mystore://h"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (None, "ModuleNotFoundError: No module named 'broken_driver'"),
        ("import a_library_that_is_not_there", "ModuleNotFoundError: No module named 'a_library_that_is_not_there'"),
        ("", "AttributeError: module 'broken_driver' has no attribute 'Store'"),
        ("def (:", "SyntaxError: "),
        ("raise OSError('libpq.so.5: cannot open shared object file')", "OSError: libpq.so.5"),
        ("class Store: ...", "AttributeError: type object 'Store' has no attribute 'from_url'"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_broken_driver_says_why(install: Install, source: str | None, complaint: str) -> None:
    install("mystore", "broken_driver:Store", name="broken-driver", source=source)
    with pytest.raises(DriverNotFoundError) as raised:
        open_checkpointer("mystore://u:hunter2@h")
    assert raised.value.reason == "broken-driver"
    assert f"the driver broken-driver 2.5 cannot be loaded: {complaint}" in raised.value.message
    assert raised.value.hint == "Reinstall it: pip install --force-reinstall broken-driver"
    assert "hunter2" not in raised.value.message
    assert raised.value.__cause__ is not None


def test_an_error_of_from_url_is_the_drivers_own(install: Install) -> None:
    source = "class Store:\n    @classmethod\n    def from_url(cls, url):\n        raise ValueError('no such bucket')\n"
    install("mystore", "my_driver:Store", name="my-driver", source=source)
    with pytest.raises(ValueError, match="no such bucket"):
        open_checkpointer("mystore://h")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:hunter2@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("postgresql://user:@host/db", "postgresql://user:***@host/db"),
        ("postgresql://:hunter2@host/db", "postgresql://:***@host/db"),
        ("postgresql://user:hun@ter2@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:hunter2/x@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:hunter2#x@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:hunter2?x@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:hunter2 x\n@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:hun:ter2@[::1]:5432/db", "postgresql://user:***@[::1]:5432/db"),
        ("postgresql://user:hunter2@[bad/db", "postgresql://user:***@[bad/db"),
        ("postgresql://user:hunter2@h1:1,h2:2/db", "postgresql://user:***@h1:1,h2:2/db"),
        ("postgresql://h/db?password=hunter2", "postgresql://h/db?password=***"),
        (
            "postgresql://h/db?sslmode=require&PassWord=hunter2&x=1",
            "postgresql://h/db?sslmode=require&PassWord=***&x=1",
        ),
        ("postgresql://h/db?password=hunter2#x;hunter2", "postgresql://h/db?password=***"),
        ("postgresql://h/db?pass%77ord=hunter2", "postgresql://h/db?pass%77ord=***"),
        ("postgresql://h/db?password=hun=ter2", "postgresql://h/db?password=***"),
        ("s3://AKIA:hunter2@bucket/prefix", "s3://AKIA:***@bucket/prefix"),
        ("s3://b/p?aws_secret_access_key=hunter2&region=eu", "s3://b/p?aws_secret_access_key=***&region=eu"),
        ("s3://b/p?X-Amz-Signature=hunter2", "s3://b/p?X-Amz-Signature=***"),
        ("s3://b/p?session_token=hunter2", "s3://b/p?session_token=***"),
        ("host=h user=u password=hunter2 dbname=d", "host=h user=u password=*** dbname=d"),
        ("host=h password = 'hunter2 hunter2' dbname=d", "host=h password = *** dbname=d"),
    ],
)
def test_secrets_are_hidden(url: str, shown: str) -> None:
    assert redact(url) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "./run.sqlite",
        "/var/a b/run.sqlite",
        "sqlite:////abs/x.sqlite?mode=ro",
        "postgresql://user@host:5432/db?sslmode=require&application_name=a+b%20c",
        "postgresql://h1:5432,h2:5433/db",
        "s3://bucket/prefix?endpoint_url=http://localhost:9000&region=eu-west-1",
        "postgresql://[bad",
    ],
)
def test_what_is_no_secret_stays_as_it_is(url: str) -> None:
    assert redact(url) == url
