"""The wheels that users install."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import zipfile
from collections import Counter
from email.message import Message
from pathlib import Path

import pytest
from support.workspace import ROOT, distributions

pytestmark = pytest.mark.thorough


def _files(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_every_distribution_becomes_a_wheel(wheels: list[Path]) -> None:
    assert [_metadata(wheel)["Name"] for wheel in wheels] == sorted(each.name for each in distributions())


def test_no_two_wheels_ship_the_same_file(wheels: list[Path]) -> None:
    counted = Counter(name for wheel in wheels for name in _files(wheel))
    assert not [name for name, count in counted.items() if count > 1]


def test_no_wheel_claims_a_namespace_level(wheels: list[Path]) -> None:
    for wheel in wheels:
        # `python -m stargraph` runs __main__.py, which makes no package of its folder.
        files = set(_files(wheel)) - {"stargraph/__main__.py"}
        strays = [name for name in files if re.fullmatch(r"stargraph/(checkpoint/)?[^/]+", name)]
        assert not strays, wheel.name


def test_a_wheel_ships_the_whole_source_and_nothing_else(wheels: list[Path]) -> None:
    by_name = {_metadata(wheel)["Name"]: wheel for wheel in wheels}
    for distribution in distributions():
        source = {
            path.relative_to(distribution.src).as_posix()
            for path in distribution.src.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        shipped = {name for name in _files(by_name[distribution.name]) if ".dist-info/" not in name}
        assert shipped == source
        assert {f"{leaf.replace('.', '/')}/py.typed" for leaf in distribution.leaves()} <= shipped


def test_every_wheel_carries_the_licence(wheels: list[Path]) -> None:
    licence = (ROOT / "LICENSE").read_bytes()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
            assert archive.read(name) == licence
        assert _metadata(wheel)["License-Expression"] == "Apache-2.0"


def test_nobody_depends_on_the_distribution_called_stargraph(wheels: list[Path]) -> None:
    """That name belongs to somebody else's project on the public index."""
    required = {
        re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()
        for wheel in wheels
        for requirement in _metadata(wheel).get_all("Requires-Dist", [])
    }
    assert "stargraph-core" in required
    assert "stargraph" not in required


def test_every_driver_requires_the_core_within_one_minor_version(wheels: list[Path]) -> None:
    for wheel in wheels:
        metadata = _metadata(wheel)
        if metadata["Name"] != "stargraph-core":
            requirements = metadata.get_all("Requires-Dist", [])
            major, minor, *_ = metadata["Version"].split(".")
            wanted = f"stargraph-core<{major}.{int(minor) + 1},>={metadata['Version']}"
            assert wanted in requirements, wheel.name


def test_the_wheels_alone_make_one_namespace(wheels: list[Path], tmp_path: Path) -> None:
    """Unpacked side by side, as pip installs them, and imported with nothing of this checkout in sight."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path)
    leaves = [leaf for distribution in distributions() for leaf in distribution.leaves()]
    program = (
        "import importlib, sys\n"
        f"sys.path[:] = [{str(tmp_path)!r}, *(path for path in sys.path if not path.endswith('/src'))]\n"
        f"for name in {leaves!r}:\n"
        f"    assert importlib.import_module(name).__file__.startswith({str(tmp_path)!r}), name\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
