"""Drivers are found by their entry points."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stargraph.checkpoint.registry import (
    ENTRY_POINT_GROUP,
    DriverInfo,
    find_secrets,
    installed_drivers,
    open_checkpointer,
    parse_address,
    redact,
    redact_text,
)
from stargraph.errors import CheckpointError, DriverNotFoundError

Install = Callable[..., None]

GOOD = """
class Store:
    def __init__(self, url):
        self.url = url

    @classmethod
    def from_url(cls, url):
        return cls(url)

    async def close(self):
        pass

    async def __aenter__(self):
        return self

    async def __aexit__(self, *raised):
        pass
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


PATHS = [
    "./run.sqlite",
    "run",
    "a b/run#1%20.sqlite",
    "runs-2026.sqlite",
    "/abs/run.sqlite",
    "a=b.sqlite",
    "./s3:/b/p",
    "./run:1.sqlite",
    "schön.sqlite",
    "what?.sqlite",
    "./user@host",
    "date=2026-11-28/run.sqlite",
    "./A_B=c.sqlite",
]


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("path", PATHS)
def test_a_plain_path_is_a_file_of_sqlite(install: Install, path: str) -> None:
    install("sqlite", "my_driver:Store", name="my-driver")
    assert open_checkpointer(path).url == path  # type: ignore[attr-defined]
    assert open_checkpointer(Path("a") / "b").url == str(Path("a") / "b")  # type: ignore[attr-defined]


NEITHER_A_PATH_NOR_A_URL = {
    "PGHOST=db PGPASSWORD=hunter22": "Set PGHOST before the command",
    "DATABASE_URL=postgresql://u:hunter22@db/runs": "Set DATABASE_URL before the command",
    "export STARGRAPH_CHECKPOINT=s3://b/p": "Set STARGRAPH_CHECKPOINT before the command",
    "psql 'postgresql://u:hunter22@db/runs'": "Write the URL alone: postgresql://u:***@db/runs",
    "url: postgresql://u:hunter22@db/runs": "Write the URL alone: postgresql://u:***@db/runs",
    "aws s3://b/p": "Write the URL alone: s3://b/p",
    "": "empty",
    "  \n": "empty",
    " postgresql://h/db": "path or URL alone",
    "s3://b/p\n": "path or URL alone",
    "'postgresql://h/db'": "path or URL alone",
    '"run.sqlite"': "path or URL alone",
    "run\n.sqlite": "path or URL alone",
    "s3:/b/p": "s3://b/p ?",
    "S3:b/p": "s3://b/p ?",
    "s3//b/p": "s3://b/p ?",
    "arn:aws:s3:::b/p": "s3://b/p ?",
    "postgresql:/u:hunter22@db/runs": "postgresql://u:***@db/runs ?",
    "postgres:db/runs": "postgres://db/runs ?",
    "postgresql//u:hunter22@db/runs": "postgresql://u:***@db/runs ?",
    "//u:hunter22@db/runs": "postgresql://u:***@db/runs ?",
    "://u:hunter22@db/runs": "postgresql://u:***@db/runs ?",
    "u:hunter22@db/runs": "postgresql://u:***@db/runs ?",
    "localhost:5432/runs": "postgresql://localhost:5432/runs ?",
    "db.example.com:5432": "postgresql://db.example.com:5432 ?",
    "jdbc:postgresql://db/runs?password=hunter22": "postgresql://db/runs?password=*** ?",
    "host=db user=app password=hunter22 dbname=runs": "postgresql://app@db/runs, with the password in PGPASSWORD",
    "dbname=runs": "postgresql://USER@HOST/runs",
    "password = 'hunter22 x' host = db port = 6432": "postgresql://USER@db:6432/DATABASE",
    "service=runs": "postgresql://",
    "Server=db;Database=runs;User Id=app;Password=hunter22;": "postgresql://app@db/runs",
    "sqlite:run.sqlite": "sqlite:///run.sqlite ?",
    "sqlite:/var/run.sqlite": "sqlite:////var/run.sqlite ?",
    "file:run.sqlite?mode=ro": "run.sqlite ?",
    "file:/var/run.sqlite": "/var/run.sqlite ?",
    "memory:": "Write memory://",
    "MEMORY:x": "Write memory://",
    "redis:6379": "redis:6379 ?",
    "mongodb:x": "mongodb://…",
    "run:1.sqlite": "./run:1.sqlite",
    "$HOME/run.sqlite": "Expand it first",
    "${DB}": "Expand it first",
    "runs/${DB}": "Expand it first",
    "$(cat url)": "Expand it first",
    "{{ store }}": "Expand it first",
    "<store>": "Expand it first",
    "%USERPROFILE%/x": "Expand it first",
    "--json": "./--json",
    "-": "./-",
    "runs/": "runs/run.sqlite",
    "/": "/run.sqlite",
    "run.sqlite?read_only=true": "sqlite:///run.sqlite?read_only=true",
    "~nobody-of-that-name/x": "./~nobody-of-that-name/x",
}


@pytest.mark.parametrize("text", NEITHER_A_PATH_NOR_A_URL, ids=repr)
def test_what_is_neither_a_path_nor_a_url_is_refused_with_what_was_meant(text: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        open_checkpointer(text)
    assert raised.value.reason == "invalid-url"
    assert NEITHER_A_PATH_NOR_A_URL[text] in f"{raised.value.message} {raised.value.hint}"
    assert "hunter22" not in str(raised.value)


@pytest.mark.skipif(sys.platform == "win32", reason="these are paths there")
@pytest.mark.parametrize("text", ["C:\\runs\\run.sqlite", "c:/runs/run.sqlite", "D:run.sqlite", "\\\\server\\share\\x"])
def test_a_windows_path_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="Windows path"):
        parse_address(text)


class BytesPath:
    def __fspath__(self) -> bytes:
        return b"runs.sqlite"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (None, "the name of the store is None: give"),
        (5, "of type int: give"),
        (b"runs.sqlite", "of type bytes: give"),
        (BytesPath(), "of type BytesPath: give"),
    ],
)
def test_what_is_no_text_is_refused_by_its_type(given: Any, complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint) as raised:
        open_checkpointer(given)
    assert "runs.sqlite" not in str(raised.value)


@pytest.mark.parametrize("path", [Path("s3://b/p"), Path("postgresql://u:hunter22@h/db")])
def test_a_path_that_was_a_url_is_refused(path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a URL") as raised:
        parse_address(path)
    assert "hunter22" not in str(raised.value)


def test_the_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert parse_address("~/runs.sqlite").text == f"{tmp_path}/runs.sqlite"
    assert parse_address(Path("~") / "runs.sqlite").text == str(tmp_path / "runs.sqlite")
    assert parse_address("sqlite:///~/a%20b?read_only=true").text == f"sqlite:///{tmp_path}/a%20b?read_only=true"


@given(st.text(st.characters(codec="utf-8", exclude_characters="/~"), min_size=1).map("./{}.sqlite".format))
def test_a_file_can_have_any_name_of_one_line(path: str) -> None:
    if any(ord(character) < 32 or ord(character) == 127 for character in path) or "${" in path or "?" in path:
        return
    address = parse_address(path)
    assert (address.scheme, address.text) == ("sqlite", path)


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


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("postgresql+asyncpg://u:hunter2@h/db", "postgresql://u:***@h/db"),
        ("postgressql://h/db", "postgresql://h/db"),
        ("sqlite3:///x", "sqlite:///x"),
        ("psql://h/db", "postgresql"),
        ("file:///tmp/my%20runs.sqlite", str(Path("/tmp/my runs.sqlite"))),
        ("file://localhost/tmp/x", str(Path("/tmp/x"))),
        ("file://", "./runs.sqlite"),
    ],
)
def test_a_scheme_that_is_nearly_right_says_which_was_meant(url: str, meant: str) -> None:
    with pytest.raises(DriverNotFoundError) as raised:
        open_checkpointer(url)
    assert meant in str(raised.value.hint)
    assert "hunter2" not in str(raised.value)


CAREFUL = GOOD.replace("class Store:", "class Store:\n    encrypted = {encrypted}\n    read_only = {read_only}")


@pytest.mark.parametrize("source", [GOOD, CAREFUL.format(encrypted=False, read_only=False)])
def test_a_driver_that_does_not_encrypt_is_not_opened_with_keys(
    install: Install, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    install("mystore", "my_driver:Store", name="my-driver", source=source)
    open_checkpointer("mystore://h")
    monkeypatch.setenv("STARGRAPH_ENCRYPTION_KEY", "k:0123456789abcdef")
    with pytest.raises(CheckpointError) as raised:
        open_checkpointer("mystore://u:hunter2@h")
    assert raised.value.reason == "no-encryption"
    assert "hunter2" not in str(raised.value)
    monkeypatch.setenv("STARGRAPH_ENCRYPTION_KEY", "")
    with pytest.raises(CheckpointError, match="set, but empty"):
        open_checkpointer("mystore://h")


def test_a_driver_that_encrypts_is_opened_with_keys(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("mystore", "my_driver:Store", name="my-driver", source=CAREFUL.format(encrypted=True, read_only=False))
    monkeypatch.setenv("STARGRAPH_ENCRYPTION_KEY", "k:0123456789abcdef")
    open_checkpointer("mystore://h")


@pytest.mark.parametrize(
    "url", ["sqlite:///x.sqlite", "x.sqlite", "postgresql://h/db", "s3://bucket/prefix"], ids=lambda url: url[:6]
)
def test_every_driver_says_whether_it_encrypts(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.delenv("STARGRAPH_ENCRYPTION_KEY", raising=False)
    plain = open_checkpointer(url)
    assert plain.encrypted is False  # type: ignore[attr-defined]
    monkeypatch.setenv("STARGRAPH_ENCRYPTION_KEY", "k:0123456789abcdef")
    assert open_checkpointer(url).encrypted is True  # type: ignore[attr-defined]


def test_read_only_is_asked_of_the_driver_by_its_url(install: Install) -> None:
    install("mystore", "my_driver:Store", name="my-driver", source=CAREFUL.format(encrypted=False, read_only=True))
    opened = {
        url: open_checkpointer(url, read_only=True).url  # type: ignore[attr-defined]
        for url in ("mystore://h", "mystore://h?x=1", "mystore://h?read_only=true")
    }
    assert opened == {
        "mystore://h": "mystore://h?read_only=true",
        "mystore://h?x=1": "mystore://h?x=1&read_only=true",
        "mystore://h?read_only=true": "mystore://h?read_only=true",
    }


@pytest.mark.usefixtures("nothing_installed")
def test_a_path_that_is_opened_read_only_becomes_a_url(install: Install) -> None:
    install("sqlite", "my_driver:Store", name="my-driver", source=CAREFUL.format(encrypted=False, read_only=True))
    for path in ("/a b/50%?.sqlite", "relative.sqlite"):
        store = open_checkpointer(path, read_only=True)
        assert store.url == f"sqlite:///{quote(path)}?read_only=true"  # type: ignore[attr-defined]


@pytest.mark.parametrize("source", [GOOD, CAREFUL.format(encrypted=False, read_only=False)])
def test_a_driver_that_would_write_is_not_opened_read_only(install: Install, source: str) -> None:
    install("mystore", "my_driver:Store", name="my-driver", source=source)
    with pytest.raises(CheckpointError) as raised:
        open_checkpointer("mystore://h", read_only=True)
    assert raised.value.reason == "no-read-only"


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


def test_a_driver_that_cannot_be_closed_is_refused(install: Install) -> None:
    source = "class Store:\n    @classmethod\n    def from_url(cls, url):\n        return cls()\n"
    install("mystore", "my_driver:Store", name="my-driver", source=source)
    with pytest.raises(DriverNotFoundError, match="mystore://h: the driver Store cannot be closed") as raised:
        open_checkpointer("mystore://h")
    assert raised.value.reason == "broken-driver"


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
        (r"host=h password='it\'s hunter2' dbname=d", "host=h password=*** dbname=d"),
        ("postgresql:/user:hunter2@host/db", "postgresql:/user:***@host/db"),
        ("user:hunter2@host/db", "user:***@host/db"),
        ("//user:hunter2@host/db", "//user:***@host/db"),
        ("jdbc:postgresql://user:hunter2@host/db", "jdbc:postgresql://user:***@host/db"),
        ("Server=h;Password=hunter2;x=y", "Server=h;Password=***"),
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


SECRET = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=8, max_size=40)


def urls_with(secret: str) -> list[str]:
    quoted = quote(secret, safe="")
    escaped = secret.replace("\\", "\\\\").replace("'", "\\'")
    return [
        f"postgresql://user:{quoted}@host/db",
        f"postgresql:/user:{quoted}@host/db",
        f"user:{quoted}@host/db",
        f"name=user:{quoted}@host/db",
        f"s3://KEY:{quoted}@bucket",
        f"postgresql://host/db?password={quoted}",
        f"s3://b/p?aws_secret_access_key={quoted}&region=eu",
        f"host=h password='{escaped}' dbname=d",
    ]


@given(SECRET)
def test_no_generated_secret_is_shown_and_each_is_found(secret: str) -> None:
    for url in urls_with(secret):
        for shown in (redact(url), redact_text(f'it says "{url}"')):
            assert secret not in shown.replace("***", "")
            assert quote(secret, safe="") not in shown
        assert secret in find_secrets(url)


def test_a_message_keeps_what_is_no_secret() -> None:
    text = "cannot reach s3://b/p?region=eu: a timeout of 5 s; write user@host and 'x=1'"
    assert redact_text(text) == text
    hint = "Write postgresql://user:password@host/database, or host=… user=… password=… dbname=…"
    assert redact_text(hint) == hint
    for before, after in (
        ("'", "': it's gone"),
        ('"', '", it is gone'),
        ("(", ") is gone."),
        ("", ": gone"),
        ("", "&x=1"),
    ):
        for value in ("", "abc"):
            text = f"cannot open {before}s3://b/p?token={value}{after}"
            assert redact_text(text) == f"cannot open {before}s3://b/p?token=***{after}"
    assert redact_text("postgresql://u:hunter2@h/db: mail a@b") == "postgresql://u:***@h/db: mail a@b"


@pytest.mark.parametrize(
    ("password", "text", "shown"),
    [
        ("test", "no run 'latest' for 'test'", "no run 'latest' for '***'"),
        ("hunter22", "no run 'xhunter22x'", "no run 'x***x'"),
        ("abc", "no run 'abc'", "no run 'abc'"),
    ],
)
def test_a_secret_of_the_arguments_is_hidden_and_no_other_word_is(password: str, text: str, shown: str) -> None:
    assert redact_text(text, ["run", f"redis://u:{password}@h/0"]) == shown
