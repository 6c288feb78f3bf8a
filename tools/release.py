"""Build every distribution, prove the result, and leave it in dist/: `make release`.

What it proves: two builds of one commit are equal to the byte; the metadata and the contents of each file are sound;
each distribution installs alone, and all of them together, on each Python that is installed; a run that is killed
resumes from the wheels, and the programs of the README and of the how-tos run. Beside the files lie their SHA-256 sums
and a list of everything that an installation contains (CycloneDX).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
BIN: Final = Path(sys.executable).parent
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
IMPORT_ALL: Final = """
import importlib, importlib.metadata, sys
files = importlib.metadata.files(sys.argv[1])
names = {".".join(file.parts[:-1]) for file in files if file.name == "__init__.py"}
names = sorted(name for name in names if "._" not in name)
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("stargraph"):
            raise
        print(f"  {name} needs an extra: {error.name}")
print(f"  {sys.argv[1]}: {len(names)} packages")
"""
"""Imports each public package of a distribution; one that stands for an extra may miss what the extra brings."""


class ReleaseError(Exception):
    """Something does not hold; nothing is left in dist/."""


def run(
    *command: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None, good: Sequence[int] = (0,)
) -> str:
    """Run a command to its end and return what it printed.

    Args:
        command: the program and its arguments.
        cwd: the folder to run it in.
        env: variables beside those of this process.
        good: the exit codes of a success.

    Raises:
        ReleaseError: it failed; with what it printed.
    """
    done = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode not in good:
        raise ReleaseError(f"{' '.join(str(each) for each in command)} failed ({done.returncode}):\n{done.stdout}")
    return done.stdout


def export(folder: Path) -> None:
    """Lay out the committed files of HEAD: what is not committed cannot get into a release."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")


def build(work: Path) -> list[Path]:
    """Return an sdist and a wheel of each distribution, built from HEAD in a folder of their own."""
    source, out = work / "source", work / "dist"
    export(source)
    epoch = run("git", "log", "-1", "--format=%ct").strip()
    run(
        BIN / "uv",
        "build",
        "--quiet",
        "--all-packages",
        "--out-dir",
        out,
        "--build-constraint",
        source / "requirements.lock",
        cwd=source,
        env={"SOURCE_DATE_EPOCH": epoch},
    )
    return sorted(path for path in out.iterdir() if path.suffix in {".whl", ".gz"})


def sums(files: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def names() -> list[str]:
    """Return the distributions of this repository."""
    projects = [*sorted(ROOT.glob("packages/*/pyproject.toml")), ROOT / "conformance/pyproject.toml"]
    return [tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"] for path in projects]


def environment(folder: Path, python: str, dist: Path, *distributions: str) -> Path:
    """Return the interpreter of a fresh environment with these distributions, ours from the wheels alone."""
    run(BIN / "uv", "venv", "--quiet", "--python", python, folder)
    interpreter = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wheels = {path.name.split("-")[0].replace("_", "-"): path for path in dist.glob("*.whl")}
    overrides = folder / "ours.txt"
    overrides.write_text("".join(f"{name} @ {path.as_uri()}\n" for name, path in wheels.items()))
    run(BIN / "uv", "pip", "install", "--quiet", "--python", interpreter, "--override", overrides, *distributions)
    return interpreter


def try_python(python: str, work: Path, dist: Path) -> None:
    """Install each distribution alone and all of them together, import what they hold, and do what a newcomer does."""
    for name in names():
        alone = environment(work / f"{python}-{name}", python, dist, name)
        print(run(alone, "-I", "-W", "error", "-c", IMPORT_ALL, name, cwd=work), end="")
    together = environment(work / f"{python}-all", python, dist, *names())
    for name in names():
        run(together, "-I", "-W", "error", "-c", IMPORT_ALL, name, cwd=work)
    print(f"  {run(together, ROOT / '.github/smoke.py', cwd=work).splitlines()[-1]}")
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/how-to/*.md"))]:
        folder = work / f"{python}-{page.stem}"
        folder.mkdir()
        run(together, "-W", "error", ROOT / "tests/support/documents.py", page, cwd=folder)
    print("  the programs of the README and of the how-tos run")
    kit = together.parent / "stargraph-conformance"
    # 2: nothing failed, and --quick leaves checks out.
    run(kit, "run", "stargraph.checkpoint.conformance.reference:target", "--quick", cwd=work, good=(0, 2))


def installed(python: str) -> bool:
    """Return whether this version of Python is on this machine; none is downloaded."""
    command = [str(BIN / "uv"), "python", "find", "--no-python-downloads", "--system", python]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def release(pythons: Sequence[str], *, every: bool) -> None:
    """Build, prove, and publish into dist/.

    Raises:
        ReleaseError: something does not hold.
    """
    if dirty := run("git", "status", "--porcelain"):
        raise ReleaseError(f"these changes are not committed, and would not be in the release:\n{dirty}")
    missing = [python for python in pythons if not installed(python)]
    if missing and (every or len(missing) == len(pythons)):
        raise ReleaseError(f"Python {', '.join(missing)} is not installed here")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        first, second = build(work / "first"), build(work / "second")
        if sums(first) != sums(second):
            different = sorted(name for name, digest in sums(first).items() if sums(second).get(name) != digest)
            raise ReleaseError(f"two builds of one commit differ: {', '.join(different)}")
        print(f"{len(first)} files, equal in two builds")
        run(BIN / "twine", "check", "--strict", *first)
        run(BIN / "check-wheel-contents", *(path for path in first if path.suffix == ".whl"))
        print("metadata and contents are sound")
        dist = work / "first/dist"
        for python in pythons:
            if python in missing:
                print(f"Python {python} is not installed here: not tried")
                continue
            print(f"Python {python}")
            try_python(python, work, dist)
        whole = next(work / f"{python}-all" for python in pythons if python not in missing)
        run(
            BIN / "cyclonedx-py",
            "environment",
            whole,
            "--output-reproducible",
            "--of",
            "JSON",
            "-o",
            dist / "sbom.json",
        )
        (dist / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums(first).items()))
        shutil.rmtree(ROOT / "dist", ignore_errors=True)
        shutil.copytree(dist, ROOT / "dist", ignore=shutil.ignore_patterns(".gitignore"))
    print(f"dist/ holds {len(list((ROOT / 'dist').iterdir()))} files")


def main() -> int:
    """Run the command; 0 if a release lies in dist/, 1 if not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--python", action="append", help="try this version; default: each of 3.11 to 3.14 that is installed"
    )
    parser.add_argument("--every-python", action="store_true", help="fail if one of these versions is not installed")
    options = parser.parse_args()
    try:
        release(options.python or PYTHONS, every=options.every_python)
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
