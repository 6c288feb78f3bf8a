"""The workflows: pinned actions, no permission too many, commands that exist, and every Python that is promised."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from support.workspace import ROOT, distributions, shown

import release

WORKFLOWS = [*sorted(ROOT.glob(".github/workflows/*.yml")), *sorted(ROOT.glob("examples/*/.github/workflows/*.yml"))]
ACTIONS = sorted(ROOT.glob(".github/actions/*/action.yml"))
WRITES = {
    ".github/workflows/release.yml": {"publish": {"id-token": "write"}, "announce": {"contents": "write"}},
    "examples/folder_driver/.github/workflows/conformance.yml": {"badge": {"contents": "write"}},
}
"""Which job may do more than read the repository."""

each_file = pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=shown)
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=shown)


def _load(path: Path) -> dict[str, Any]:
    loaded = YAML(typ="safe").load(path)
    assert isinstance(loaded, dict)
    return loaded


def _jobs(path: Path) -> dict[str, dict[str, Any]]:
    loaded = _load(path)
    return loaded["jobs"] if "jobs" in loaded else {"action": loaded["runs"]}


def _steps(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in _jobs(path).items():
        for step in job.get("steps", ()):
            yield name, step


@each_file
def test_what_others_have_written_is_pinned_to_a_commit(path: Path) -> None:
    for used, comment in re.findall(r"uses: (\S+)(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
        if used.startswith("./"):
            assert (ROOT / used).exists()
        elif used.startswith("OWNER/stargraph/"):
            folder, _, tag = used.removeprefix("OWNER/stargraph/").partition("@")
            assert (ROOT / folder / "action.yml").exists()
            assert re.fullmatch(r"v\d+\.\d+\.\d+", tag)
        else:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", used), used
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{used} does not say its version"


def test_one_action_has_one_version() -> None:
    text = "\n".join(
        path.read_text(encoding="utf-8") for path in [*WORKFLOWS, *ACTIONS, ROOT / "docs/write-a-driver.md"]
    )
    pins = set(re.findall(r"uses: ([\w-]+/[\w-]+)@(\w+)", text))
    assert len(pins) == len({action for action, _ in pins}), sorted(pins)


@each_workflow
def test_a_job_may_do_what_it_must_and_no_more(path: Path) -> None:
    assert _load(path)["permissions"] == {"contents": "read"}
    granted = {name: job["permissions"] for name, job in _jobs(path).items() if "permissions" in job}
    assert granted == WRITES.get(shown(path), {})


@each_workflow
def test_a_job_ends(path: Path) -> None:
    for name, job in _jobs(path).items():
        assert "uses" in job or 0 < job["timeout-minutes"] <= 60, name


@each_workflow
def test_credentials_stay_where_they_are_needed(path: Path) -> None:
    assert "secrets." not in path.read_text(encoding="utf-8")
    for name, step in _steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            writes = _jobs(path)[name].get("permissions", {}).get("contents") == "write"
            assert writes or step["with"]["persist-credentials"] is False, name


@each_file
def test_no_shell_gets_text_that_somebody_else_wrote(path: Path) -> None:
    for name, step in _steps(path):
        assert "${{" not in step.get("run", ""), f"{name}: give it by env"


@each_workflow
def test_its_commands_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for _, step in _steps(path):
        for line in step.get("run", "").splitlines():
            if line.startswith("make "):
                assert line.split()[1] in targets, line
            if found := re.match(r"(?:python )?(\.[\w./]+)", line):
                assert (ROOT / found[1]).exists(), line


def test_only_files_that_were_proved_are_published() -> None:
    jobs = _jobs(ROOT / ".github/workflows/release.yml")
    assert jobs["publish"]["needs"] == ["ci", "build"]
    assert jobs["publish"]["environment"] == "pypi"
    assert [step["run"] for step in jobs["build"]["steps"] if "run" in step] == [
        'make version VERSION_ARGS="--tag $GITHUB_REF_NAME"',
        "make audit",
        "make release RELEASE_ARGS=--every-python",
    ]
    download, publish = jobs["publish"]["steps"]
    assert publish["with"] == {"attestations": True}
    uploads = [step["with"] for step in jobs["build"]["steps"] if "upload-artifact" in step.get("uses", "")]
    assert {upload["name"]: upload["path"].split() for upload in uploads} == {
        download["with"]["name"]: ["dist/*.whl", "dist/*.tar.gz"],
        "release": ["dist/*"],
    }


def test_every_python_that_is_promised_is_tried() -> None:
    promised = list(release.PYTHONS)
    gate = _jobs(ROOT / ".github/workflows/ci.yml")["gate"]
    assert gate["strategy"]["matrix"]["python"] == promised
    build = _jobs(ROOT / ".github/workflows/release.yml")["build"]
    (python,) = [step["with"] for step in build["steps"] if "setup-python" in step.get("uses", "")]
    assert sorted(python["python-version"].split()) == promised
    prefix = "Programming Language :: Python :: 3."
    for distribution in distributions():
        classifiers = [
            each.removeprefix(prefix) for each in distribution.project["classifiers"] if each.startswith(prefix)
        ]
        assert [f"3.{each}" for each in classifiers] == promised, distribution.name
        assert distribution.project["requires-python"] == f">={promised[0]}"
    assert f"{promised[0]} to {promised[-1]}" in (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")


def test_each_rule_of_security_that_is_off_says_why() -> None:
    files = [
        path
        for folder in ("packages", "conformance", "examples", "tools", ".github")
        for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"# noqa: S\d", line):
                assert re.search(r"# noqa: S\d+  # \w", line), f"{shown(path)}: {line.strip()}"
    ignored = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    codes = [*ignored["ignore"], *(code for codes in ignored["per-file-ignores"].values() for code in codes)]
    assert "S" in ignored["select"]
    assert all(re.fullmatch(r"S\d{3}", code) for code in codes if re.fullmatch(r"S\d*", code)), "name each rule"
