"""Files that options and arguments name: never waited for without end, never replaced by what they are not."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import Folder, command

from stargraph.checkpoint.driver import _files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="named pipes and devices")

KEYS = "2026-11:7ImrD5vC9VQ8pXUQ0m1k3bqKJH2yN4sT"
READS = [
    ("run", "graph.yaml", "-i", "count=1", "--encryption-keys"),
    ("run", "graph.yaml", "--inputs"),
    ("run",),
    ("validate",),
    ("graph",),
    ("import",),
    ("verify", "--anchor"),
    ("enqueue", "graph.yaml", "--lines"),
]


def call_on(folder: Folder, words: tuple[str, ...], file: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command on a file in a process of its own, which is ended if it waits."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command(*words, file), cwd=folder.path, text=True, capture_output=True, timeout=60, check=False, **options
    )


@pytest.fixture
def pipe(folder: Folder) -> str:
    os.mkfifo(folder.path / "pipe", 0o600)
    return "pipe"


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_a_pipe_without_a_writer_is_refused_at_once(folder: Folder, pipe: str, words: tuple[str, ...]) -> None:
    assert folder.call("run", "graph.yaml", "-i", "count=1", "-q").code == 0
    answer = call_on(folder, words, pipe, stdin=subprocess.DEVNULL)
    assert answer.returncode == 2, answer
    assert "it is a pipe or a device, not a file" in answer.stderr


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_a_device_without_an_end_is_refused(folder: Folder) -> None:
    for words in READS:
        answer = folder.call(*words, "/dev/zero")
        assert answer.code == 2, answer
        assert "it is a pipe or a device, not a file" in answer.err or words == ("verify", "--anchor")


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no such directory")
def test_what_the_shell_has_opened_is_read(folder: Folder) -> None:
    read, write = os.pipe()
    os.write(write, f"{KEYS}\n".encode())
    os.close(write)
    words = ("run", "graph.yaml", "-q", "-i", "count=1", "--encryption-keys")
    answer = call_on(folder, words, f"/dev/fd/{read}", pass_fds=[read])
    os.close(read)
    assert answer.returncode == 0, answer
    checked = call_on(folder, ("validate",), "/dev/stdin", input=(folder.path / "graph.yaml").read_text())
    assert checked.returncode == 0, checked


def test_a_file_is_read_if_the_system_opens_all_files_to_wait(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows does, where `os.set_blocking` takes pipes alone."""

    def refuse(descriptor: int, blocking: bool) -> None:
        raise OSError(f"{descriptor} is no pipe")

    monkeypatch.setattr(_files, "_NONBLOCK", 0)
    monkeypatch.setattr(os, "set_blocking", refuse)
    assert folder.call("validate", "graph.yaml").code == 0


def test_a_pipe_is_written_to_and_not_replaced(folder: Folder, pipe: str) -> None:
    assert folder.call("run", "graph.yaml", "-i", "count=1", "-q").code == 0
    for words in (("export", pipe, "--all"), ("inspect", "latest", "--html", pipe)):
        unread = folder.call(*words)
        assert (unread.code, "nobody reads this pipe" in unread.err) == (74, True), unread
    reader = os.open(folder.path / pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert folder.call("export", pipe, "--all").code == 0
    assert os.read(reader, 100).startswith(b"{")
    os.close(reader)
    assert stat.S_ISFIFO((folder.path / pipe).stat().st_mode)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make a device")
def test_a_device_is_written_to_and_not_replaced(folder: Folder) -> None:
    assert folder.call("run", "graph.yaml", "-i", "count=1", "-q").code == 0
    null = folder.path / "null"
    try:
        os.mknod(null, 0o666 | stat.S_IFCHR, Path(os.devnull).stat().st_rdev)
    except PermissionError:
        pytest.skip("this container makes no device")
    assert folder.call("export", "null", "--all").code in (0, 74)  # 74 if the filesystem takes no devices
    assert stat.S_ISCHR(null.stat().st_mode)


def test_a_link_stays_and_its_file_is_replaced(folder: Folder) -> None:
    assert folder.call("run", "graph.yaml", "-i", "count=1", "-q").code == 0
    (folder.path / "backups").mkdir()
    link, file = folder.path / "latest.jsonl", folder.path / "backups" / "today.jsonl"
    link.symlink_to(file)
    for _ in range(2):
        assert folder.call("export", "latest.jsonl", "--all").code == 0
        assert link.is_symlink()
        assert file.read_bytes().startswith(b"{")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize(
    "words",
    ["--help", "--version", "run --help", "schedule --help", "schedule add -h", "--show-completion bash", "drivers"],
)
def test_help_that_cannot_be_printed_is_no_success(folder: Folder, words: str) -> None:
    with Path("/dev/full").open("w") as full:
        process = folder.spawn(
            *words.split(), stdout=full, env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
        )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 74
    assert "warning: cannot write to stdout: No space left on device" in err
