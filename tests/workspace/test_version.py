"""One version for all distributions, and which one comes next."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.workspace import ROOT, distributions

import version
from audit import judge
from version import Level, Version, changes

OLD = "def a.f(x: int, *, key: str | None = None) -> int\nclass a.C(Base)\na.LIMIT: Final"


def _level(old: str, new: str) -> Level:
    return max((level for level, _ in changes(old, new)), default=Level.PATCH)


def test_every_distribution_has_the_one_version() -> None:
    one = str(version.current())
    upper = f"{version.current().major}.{version.current().minor + 1}"
    for distribution in distributions():
        assert distribution.project["version"] == one, distribution.name
        dependencies = [
            *distribution.project["dependencies"],
            *(each for extra in distribution.project.get("optional-dependencies", {}).values() for each in extra),
        ]
        for each in dependencies:
            if each.startswith("stargraph"):
                assert each.endswith(f">={one},<{upper}"), (distribution.name, each)


def test_setting_it_writes_it_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in [ROOT / "pyproject.toml", *ROOT.glob("packages/*/pyproject.toml"), ROOT / "conformance/pyproject.toml"]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(version, "ROOT", tmp_path)
    monkeypatch.setattr(version, "PROJECT", tmp_path / "pyproject.toml")
    version.set_version(Version(3, 4, 5))
    assert version.current() == Version(3, 4, 5)
    for distribution in distributions():
        text = (tmp_path / distribution.folder.relative_to(ROOT) / "pyproject.toml").read_text(encoding="utf-8")
        assert tomllib.loads(text)["project"]["version"] == "3.4.5"
        assert str(distribution.project["version"]) not in re.findall(r'"stargraph-[^"]*>=([^,"]*)', text)


@pytest.mark.parametrize(
    ("new", "level"),
    [
        (OLD, Level.PATCH),
        (f"{OLD}\ndef a.g() -> None", Level.MINOR),
        (OLD.replace(" = None)", " = None, more: int = 3)"), Level.MINOR),
        (OLD.replace("x: int, *", "x: int, y: dict[str, int] = {'a,b': 1}, *"), Level.MINOR),
        (OLD.replace("*, key", "*, also: int = 1, key"), Level.MINOR),
        (OLD.replace("x: int, *", "x: int, y: int, *"), Level.MAJOR),
        (OLD.replace("x: int", "y: int"), Level.MAJOR),
        (OLD.replace(", *, key", ", key"), Level.MAJOR),
        (OLD.replace("*, key: str | None = None", "*"), Level.MAJOR),
        (OLD.replace("-> int", "-> str"), Level.MAJOR),
        (OLD.replace("def a.f", "async def a.f"), Level.MAJOR),
        (OLD.replace("(Base)", ""), Level.MAJOR),
        (OLD.replace("a.LIMIT: Final", ""), Level.MAJOR),
    ],
)
def test_the_level_of_a_change(new: str, level: Level) -> None:
    assert _level(OLD, "\n".join(line for line in new.splitlines() if line)) is level


def test_the_list_of_this_tree_is_understood() -> None:
    listed = (ROOT / version.API).read_text(encoding="utf-8")
    assert changes(listed, listed) == []
    removed = listed.splitlines()[10]
    assert changes(listed, listed.replace(f"{removed}\n", "")) == [(Level.MAJOR, f"removed: {removed}")]


def test_what_comes_next() -> None:
    assert [str(Version(0, 3, 1).next(level)) for level in Level] == ["0.3.2", "0.4.0", "0.4.0"]
    assert [str(Version(1, 3, 1).next(level)) for level in Level] == ["1.3.2", "1.4.0", "2.0.0"]
    with pytest.raises(ValueError, match="no version of the form"):
        Version.parse("1.0rc1")


def test_a_version_that_is_too_low_is_refused(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)

    def run(*words: str) -> tuple[int, str]:
        command = [sys.executable, str(tmp_path / "tools/version.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    for name in ("docs", "tools", "conformance"):
        (tmp_path / name).mkdir()
    (tmp_path / "tools/version.py").write_bytes((ROOT / "tools/version.py").read_bytes())
    for folder in (tmp_path, tmp_path / "conformance"):
        (folder / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (tmp_path / version.API).write_text(f"{OLD}\n")
    git("init", "--quiet")
    git("add", ".")
    git("-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "--message", "first")
    assert run("--tag", "v1.2.0") == (0, "1.2.0: the first release\n")
    assert run("--tag", "v1.3.0") == (1, "error: the tag is v1.3.0, and the version of this tree is 1.2.0\n")
    git("tag", "v1.2.0")
    (tmp_path / version.API).write_text(OLD.replace("x: int", "y: int") + "\n")
    git("-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--all", "--quiet", "--message", "second")
    assert run("--set", "1.3.0")[0] == 1
    code, output = run("--set", "2.0.0")
    assert code == 0
    assert output.endswith("since v1.2.0: major; the next version is 2.0.0 or higher, this tree has 2.0.0\n")


SOUND = {"name": "a", "version": "1", "vulns": []}
FAULTY = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "code", "code_in_ci"),
    [([SOUND], 0, 0), ([SOUND, FAULTY], 1, 1), ([SOUND, SKIPPED], 0, 1), ([FAULTY, SKIPPED], 1, 1), ([], 0, 1)],
)
def test_an_audit_fails_on_a_finding_and_in_ci_if_nobody_was_asked(
    packages: list[dict[str, object]], code: int, code_in_ci: int
) -> None:
    report = json.dumps({"dependencies": packages}) if packages else ""
    assert (judge(report, in_ci=False)[0], judge(report, in_ci=True)[0]) == (code, code_in_ci)
