"""No secret that the command line was given is in anything that it prints."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.cli import GRAPH, STEPS, Answer, Folder, own_folder
from typer.testing import CliRunner

from stargraph.checkpoint.conformance._cli import main as conformance
from stargraph.cli._app import app
from stargraph.cli._secrets import SecretFilter
from stargraph.langgraph._cli import main as langgraph

CLOSED = "127.0.0.1:1"
"""Nothing listens there, and the system says so at once."""

pytestmark = pytest.mark.thorough

SECRET = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=8, max_size=60).filter(
    lambda secret: secret == secret.strip() and len(set(secret)) > 4 and not secret.startswith("***")
)

FORMS: dict[str, Callable[[str], str]] = {
    "userinfo": lambda secret: f"postgresql:/user:{quote(secret, safe='')}@host/db",
    "userinfo of no driver": lambda secret: f"redis://user:{quote(secret, safe='')}@host/0",
    "userinfo, not quoted": lambda secret: f"redis://user:{secret}@host/0",
    "no scheme": lambda secret: f"user:{quote(secret, safe='')}@host/db",
    "access key": lambda secret: f"s3://KEY:{quote(secret, safe='')}@b",
    "query": lambda secret: f"redis://host/db?sslmode=no&password={quote_plus(secret)}&x=1",
    "query of s3": lambda secret: f"s3://bucket/p?aws_secret_access_key={quote(secret, safe='')}",
    "token of s3": lambda secret: f"s3://bucket/p?aws_session_token={quote(secret, safe='')}",
    "key of a certificate": lambda secret: f"postgresql://h/d?sslkey=k&sslpassword={quote_plus(secret)}",
    "two at signs": lambda secret: f"postgresql://user:{quote(secret, safe='')}@mail@host/db",
    "setting": lambda secret: f"PGPASSWORD={secret}",
    "url in a setting": lambda secret: f"DATABASE_URL=postgresql://u:{quote(secret, safe='')}@h/d",
    "jdbc": lambda secret: f"jdbc:postgresql://h/d?user=u&password={quote_plus(secret)}",
    "dsn": lambda secret: "host=h password='" + secret.replace("\\", "\\\\").replace("'", "\\'") + "' dbname=d",
}

POSITIONS: list[tuple[str, ...]] = [
    ("X",),
    ("run", "X"),
    ("run", "graph.yaml", "X"),
    ("run", "graph.yaml", "--X"),
    ("run", "graph.yaml", "--X=1"),
    ("run", "graph.yaml", "-i", "count=1", "--checkpoint", "X"),
    ("run", "graph.yaml", "-i", "count=1", "--checkpoint=X"),
    ("run", "graph.yaml", "-i", "X"),
    ("run", "graph.yaml", "-i", "count=X"),
    ("run", "graph.yaml", "-i", "count=1", "-i", "name=X"),
    ("run", "graph.yaml", "-i", "count=1", "-i", "level=X"),
    ("run", "graph.yaml", "-i", "count=1", "-i", "notes=[X]"),
    ("run", "graph.yaml", "-i", "X=1"),
    ("run", "graph.yaml", "-i", "count=1", "--inputs", "X"),
    ("run", "graph.yaml", "-i", "count=1", "--run-id", "X"),
    ("run", "graph.yaml", "-i", "count=1", "--tag", "X"),
    ("run", "graph.yaml", "-i", "count=1", "--tag", "a=X"),
    ("run", "graph.yaml", "-i", "count=1", "--durability", "X"),
    ("run", "graph.yaml", "-i", "count=1", "--encryption-keys", "X"),
    ("run", "fails.yaml", "-i", "text=X"),
    ("resume", "X", "graph.yaml"),
    ("resume", "r1", "X"),
    ("resume", "r1", "graph.yaml", "--accept", "X"),
    ("resume", "r1", "graph.yaml", "--only-if-idle", "X"),
    ("respond", "X", "--value", "1"),
    ("respond", "r1", "--value", "X"),
    ("respond", "r1", "--interrupt", "X", "--value", "1"),
    ("pause", "X"),
    ("pause", "r1", "--grace", "X"),
    ("cancel", "X"),
    ("cancel", "r1", "--grace", "X"),
    ("runs", "X"),
    ("runs", "--status", "X"),
    ("runs", "--graph", "X"),
    ("runs", "--graph-hash", "X"),
    ("runs", "--tag", "X"),
    ("runs", "--since", "X"),
    ("runs", "--idle-for", "X"),
    ("runs", "--cursor", "X"),
    ("runs", "--limit", "X"),
    ("runs", "--order", "X"),
    ("inspect", "X"),
    ("inspect", "r1", "--step", "X"),
    ("inspect", "r1", "--diff", "X", "X"),
    ("verify", "X"),
    ("verify", "--anchor", "X"),
    ("anchor", "nowhere/X"),
    ("copy", "X", "b.sqlite", "--all"),
    ("copy", "X", "X", "--all"),
    ("copy", ".stargraph/run.sqlite", "X", "--all"),
    ("copy", ".stargraph/run.sqlite", "b.sqlite", "X"),
    ("move", "X", "b.sqlite", "r1"),
    ("move", ".stargraph/run.sqlite", "X", "r1"),
    ("move", ".stargraph/run.sqlite", "b.sqlite", "X"),
    ("export", "nowhere/X", "--all"),
    ("export", "x.jsonl", "X"),
    ("export", "x.jsonl", "--since", "X"),
    ("import", "X"),
    ("prune", "--older-than", "X"),
    ("prune", "--older-than", "1d", "--status", "X"),
    ("delete", "X"),
    ("delete", "--tag", "X"),
    ("replay", "X", "graph.yaml"),
    ("replay", "r1", "X"),
    ("replay", "r1", "graph.yaml", "--set", "X"),
    ("replay", "r1", "graph.yaml", "--set", "name=X", "--run-id", "r1"),
    ("replay", "r1", "graph.yaml", "--overlay", "X"),
    ("graph", "X"),
    ("schema", "X"),
    ("drivers", "X"),
    ("doctor", "X"),
    ("migrate", "X"),
    ("validate", "X"),
    ("enqueue", "X"),
    ("enqueue", "graph.yaml", "-i", "X"),
    ("enqueue", "graph.yaml", "-i", "count=X"),
    ("enqueue", "graph.yaml", "--lines", "X"),
    ("enqueue", "graph.yaml", "-i", "count=1", "--queue", "X"),
    ("enqueue", "graph.yaml", "-i", "count=1", "--not-before", "X"),
    ("enqueue", "graph.yaml", "-i", "count=1", "--checkpoint", "X"),
    ("worker", "X"),
    ("worker", "graph.yaml", "--concurrency", "X"),
    ("worker", "graph.yaml", "--checkpoint", "X"),
    ("queues", "X"),
    ("queues", "--limit", "X"),
    ("queues", "--checkpoint", "X"),
    ("workers", "X"),
    ("workers", "--silent-after", "X"),
    ("workers", "--checkpoint", "X"),
    ("requeue", "X"),
    ("requeue", "r1", "--queue", "X"),
    ("requeue", "r1", "--checkpoint", "X"),
    ("schedule", "add", "X", "graph.yaml"),
    ("schedule", "add", "0 7 * * *", "X"),
    ("schedule", "add", "0 7 * * *", "graph.yaml", "--checkpoint", "X"),
    ("schedule", "add", "0 7 * * *", "graph.yaml", "--timezone", "X"),
    ("schedule", "add", "0 7 * * *", "graph.yaml", "--queue", "X"),
    ("worker", "graph.yaml", "--listen", "X"),
    ("worker", "graph.yaml", "--queue", "X"),
    ("queues", "--unlimited", "X"),
    ("requeue", "--status", "failed", "--error-reason", "X"),
    ("enqueue", "graph.yaml", "-i", "count=1", "--key", "X", "--priority", "X"),
    ("inspect", "r1", "--html", "nowhere/X"),
    ("delete", "--tag", "a=X", "--yes"),
    ("prune", "--older-than", "1d", "--checkpoint", "X"),
    ("schedule", "list", "X"),
    ("schedule", "list", "--checkpoint", "X"),
    ("schedule", "remove", "X"),
    ("schedule", "remove", "n", "--checkpoint", "X"),
    ("ui", "X"),
    ("ui", "--graph", "X"),
    ("ui", "--port", "X"),
]

TAKES_JSON = {
    "run",
    "resume",
    "respond",
    "pause",
    "cancel",
    "runs",
    "inspect",
    "verify",
    "copy",
    "move",
    "import",
    "prune",
    "delete",
}
TAKES_JSON |= {"replay", "doctor", "migrate", "drivers", "enqueue", "queues", "workers", "requeue"}


def names_of(commands: typer.Typer) -> set[str]:
    return {each.name or each.callback.__name__ for each in commands.registered_commands if each.callback is not None}


def test_every_command_is_given_secrets() -> None:
    commands: set[tuple[str, ...]] = {(name,) for name in names_of(app)}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        commands |= {
            (str(group.name or group.typer_instance.info.name), name) for name in names_of(group.typer_instance)
        }
    given = {words[:1] for words in POSITIONS} | {words[:2] for words in POSITIONS}
    assert commands - given == set()


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    with own_folder(tmp_path_factory.mktemp("secrets")) as folder:
        # A module of a name of its own: other tests of this module import `steps` from elsewhere.
        folder.write("graph.yaml", GRAPH.replace("steps:", "secret_steps:"))
        folder.write("secret_steps.py", STEPS)
        folder.write("fails.yaml", "id: f\nstate_schema: {text: str}\nnodes: [{id: a, kind: 'fails:fails'}]\n")
        folder.write("fails.py", "def fails(state): raise OSError(f'cannot reach {state.text}')\n")
        assert folder.call("run", "graph.yaml", "-i", "count=1", "--run-id", "r1").code == 0
        yield folder


def assert_hidden(answer: Answer, secret: str) -> None:
    printed = answer.out + answer.err
    for form in {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}:
        assert form not in printed, (form, printed)


def words_of(folder: Folder, position: tuple[str, ...], text: str, flags: list[str]) -> list[str]:
    words = [word.replace("X", text) for word in position]
    if position[0] not in TAKES_JSON:
        flags = [flag for flag in flags if flag != "--json"]
    return ["--debug", *words] if "--debug" in flags else [*words, *flags]


@pytest.mark.timeout(300)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    secret=SECRET,
    form=st.sampled_from(sorted(FORMS)),
    position=st.sampled_from(POSITIONS),
    flags=st.sampled_from([[], ["--json"], ["--debug"]]),
)
def test_no_secret_of_an_argument_is_printed(
    one_folder: Folder, secret: str, form: str, position: tuple[str, ...], flags: list[str]
) -> None:
    words = words_of(one_folder, position, FORMS[form](secret), flags)
    assert_hidden(one_folder.call(*words, env={"STARGRAPH_DEBUG": ""}), secret)


OTHER_COMMANDS: list[tuple[Callable[[], None], tuple[str, ...]]] = [
    (langgraph, ("X",)),
    (langgraph, ("--X",)),
    (langgraph, ("import", "X")),
    (langgraph, ("import", "X", "b.sqlite")),
    (langgraph, ("import", "X", "X")),
    (langgraph, ("import", "a", "b", "X")),
    (langgraph, ("import", "a", "b", "--X")),
    (langgraph, ("export", "X", "b.sqlite")),
    (langgraph, ("export", "X", "X", "X")),
    (conformance, ("X",)),
    (conformance, ("--X",)),
    (conformance, ("run", "X")),
    (conformance, ("run", "X", "X")),
    (conformance, ("run", "no_such_module:target", "--seed", "X")),
    (conformance, ("run", "no_such_module:target", "--only", "X")),
    (conformance, ("run", "--explain", "X")),
    (conformance, ("verify", "X")),
    (conformance, ("compare", "X", "X")),
]


@pytest.mark.timeout(300)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secret=SECRET, form=st.sampled_from(sorted(FORMS)), command=st.sampled_from(OTHER_COMMANDS))
def test_no_secret_of_an_argument_is_printed_by_the_other_commands(
    one_folder: Folder, secret: str, form: str, command: tuple[Callable[[], None], tuple[str, ...]]
) -> None:
    main, position = command
    words = [word.replace("X", FORMS[form](secret)) for word in position]
    with pytest.MonkeyPatch.context() as patch, CliRunner().isolation() as (out, err, _):
        patch.setattr(sys, "argv", ["command", *words])
        with pytest.raises(SystemExit):
            main()
        printed = [stream.getvalue().decode(errors="replace") for stream in (out, err)]
    assert_hidden(Answer(2, *printed), secret)


VARIABLES = ["STARGRAPH_CHECKPOINT", "DATABASE_URL", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "MY_API_KEY", "X_TOKEN"]


@pytest.mark.timeout(300)
@settings(max_examples=50, deadline=None)
@given(
    secret=SECRET.filter(lambda text: not text.startswith(("/", "./", "~"))),
    form=st.sampled_from(sorted(FORMS)),
    variable=st.sampled_from(VARIABLES),
    position=st.sampled_from([("runs",), ("run", "X"), ("inspect", "X"), ("run", "fails.yaml", "-i", "text=X")]),
)
def test_no_secret_of_the_environment_is_printed(
    one_folder: Folder, secret: str, form: str, variable: str, position: tuple[str, ...]
) -> None:
    # A node, for one, may quote a secret that it knows from the environment.
    value = FORMS[form](secret) if variable.endswith(("CHECKPOINT", "URL")) else secret
    words = words_of(one_folder, position, secret, [])
    assert_hidden(one_folder.call(*words, env={variable: value}), secret)


@pytest.mark.timeout(300)
@settings(max_examples=30, deadline=None)
@given(
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=",#:"), min_size=8),
    position=st.sampled_from(
        [
            ("run", "graph.yaml", "-i", "count=1", "--encryption-keys", "X"),
            ("runs", "--encryption-keys", "X"),
            ("run", "X"),
            ("graph", "X"),
            ("run", "graph.yaml", "--inputs", "X"),
            ("import", "X"),
            ("verify", "--anchor", "X"),
            ("replay", "r1", "graph.yaml", "--overlay", "X"),
            ("runs", "--checkpoint", "X"),
        ]
    ),
    line=st.sampled_from(["k:{}", "{}", "{}:k", "k:{}\nk:{}", "# of 2026\nk: {}", "k:{},j:{}"]),
    mode=st.sampled_from([0o600, 0o644]),
)
def test_no_secret_of_a_key_file_is_printed(
    one_folder: Folder, secret: str, position: tuple[str, ...], line: str, mode: int
) -> None:
    if len(set(secret)) <= 4:
        return
    keys = one_folder.write("keys.txt", line.replace("{}", secret))
    keys.chmod(mode)
    words = words_of(one_folder, position, "keys.txt", ["--debug"])
    answer = one_folder.call(*words, env={"STARGRAPH_DEBUG": ""})
    if "k:{}" in line or "--encryption-keys" in position:
        assert_hidden(answer, secret)
    shutil.rmtree("b", ignore_errors=True)


@pytest.mark.parametrize("variable", ["STARGRAPH_ENCRYPTION_KEY", "STARGRAPH_INTEGRITY_KEY"])
@pytest.mark.parametrize("text", ["k:geheim-geheim", "geheim-geheim:k", "a:geheim-geheim,a:geheim-geheim"])
def test_no_key_of_the_environment_is_printed(folder: Folder, variable: str, text: str) -> None:
    for flags in ([], ["--json"]):
        answer = folder.call("--debug", "run", "graph.yaml", "-i", "count=1", *flags, env={variable: text})
        assert answer.code == 2
        assert_hidden(answer, "geheim-geheim")


def test_a_hint_that_names_the_store_hides_its_password(folder: Folder) -> None:
    folder.write("graph.yaml", "id: g\nnodes: [{id: a, kind: 'steps:gone'}]\n")
    url = "sqlite:///run.sqlite?password=geheim-geheim"
    assert_hidden(folder.call("run", "graph.yaml", "--checkpoint", url), "geheim-geheim")


def test_a_store_that_cannot_be_reached_hides_its_password(folder: Folder) -> None:
    url = f"postgresql://user:geheim-geheim@{CLOSED}/db?connect_timeout=2"
    for flags in ([], ["--json"]):
        answer = folder.call("--debug", "runs", "--checkpoint", url, *flags)
        assert answer.code == 7
        assert_hidden(answer, "geheim-geheim")
        assert CLOSED.partition(":")[0] in answer.err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the password: hunter2-hunter2", "the password: ***"),
        ("'hunter2-hun' is too long", "'***' is too long"),
        ("hunter2-hunter2hunter2-hunter2", "******"),
        ("hunter", "hunter"),
        ("short pw", "short pw"),
    ],
)
def test_what_is_known_is_hidden_and_what_is_not_stays(text: str, shown: str) -> None:
    secrets = SecretFilter(["--checkpoint", "postgresql://u:hunter2-hunter2@h/db"], {"PGPASSWORD": "pwd"})
    assert secrets.hide(text) == shown


def test_a_short_secret_is_hidden_as_a_word_alone() -> None:
    secrets = SecretFilter([], {"PGPASSWORD": "step"})
    assert secrets.hide("steps.py: step") == "steps.py: ***"


def test_the_directory_and_paths_to_secrets_are_no_secrets() -> None:
    secrets = SecretFilter([], {"PWD": "/home/user", "OLDPWD": "/home/other", "TOKEN": "/run/secrets/token"})
    assert secrets.hide("/home/user /home/other /run/secrets/token") == "/home/user /home/other /run/secrets/token"


def test_json_stays_json(folder: Folder) -> None:
    words = ("run", "graph.yaml", "-i", "count=1", "-i", 'name=postgresql://u:geheim"-{x}@h/db', "--json")
    answer = folder.call(*words)
    assert answer.code == 0
    assert answer.json["state"]["name"] == "postgresql://u:***@h/db"
    # What is stored is what was given.
    stored = folder.call("inspect", "latest", "--step", "0", "--json")
    assert stored.json["state"]["name"] == 'postgresql://u:geheim"-{x}@h/db'
    assert Path(".stargraph/run.sqlite").exists()


def test_a_file_that_is_named_makes_no_word_of_it_a_secret(tmp_path: Path) -> None:
    """What looks like a key in it may be the user's data; no error quotes a file that is not what it should be."""
    named = tmp_path / "named"
    named.write_text("r1:4f9d2c6a71\n")
    assert SecretFilter([str(named)]).hide("the run r1:4f9d2c6a71") == "the run r1:4f9d2c6a71"
