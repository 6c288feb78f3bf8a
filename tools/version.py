"""The version: `make version` says which one comes next, `make version VERSION=0.2.0` sets it.

It stands in one place, the pyproject.toml of this repository; setting it writes it into every distribution, with the
bounds between them, and a test compares. What comes next follows from docs/public-api.txt: a name that goes away, or a
signature that takes less than at the last tag, is a major change; a new name or argument is a minor one, all else a
patch. Before 1.0, a major change needs the next minor version. Commands, stored formats and `reason`s are not in that
list: docs/compatibility.md says what they need.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple, Self

ROOT: Final = Path(__file__).resolve().parents[1]
PROJECT: Final = ROOT / "pyproject.toml"
API: Final = "docs/public-api.txt"
OURS: Final = r"stargraph-(?:core|conformance|checkpoint-\w+|langgraph|dask|ui)"


class Level(IntEnum):
    """How much a version changes for users."""

    PATCH = 0
    MINOR = 1
    MAJOR = 2


class Version(NamedTuple):
    """A version of the form `1.2.3`."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one.

        Raises:
            ValueError: it has another form.
        """
        if not (found := re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", text)):
            raise ValueError(f"{text!r} is no version of the form 1.2.3")
        return cls(*(int(part) for part in found.groups()))

    def next(self, level: Level) -> Version:
        """Return the version that follows this one after a change of that level."""
        if level is Level.MAJOR and self.major:
            return Version(self.major + 1, 0, 0)
        if level >= Level.MINOR:
            return Version(self.major, self.minor + 1, 0)
        return Version(self.major, self.minor, self.patch + 1)

    def __str__(self) -> str:
        return ".".join(map(str, self))


def current() -> Version:
    """Return the version of this tree."""
    return Version.parse(tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"])


def changes(old: str, new: str) -> list[tuple[Level, str]]:
    """Compare two lists of public names.

    Args:
        old: the list of the last release.
        new: the list of this tree.

    Returns:
        What is different, the gravest first, each as a line for people.
    """
    before, after = _by_name(old), _by_name(new)
    found = [(Level.MAJOR, f"removed: {before[name]}") for name in before.keys() - after.keys()]
    found += [(Level.MINOR, f"added: {after[name]}") for name in after.keys() - before.keys()]
    for name in before.keys() & after.keys():
        if before[name] != after[name]:
            level = Level.MINOR if _takes_more(before[name], after[name]) else Level.MAJOR
            found.append((level, f"changed: {before[name]}\n      to: {after[name]}"))
    return sorted(found, key=lambda change: (-change[0], change[1]))


def _by_name(listing: str) -> dict[str, str]:
    names = {}
    for line in listing.splitlines():
        found = re.match(r"(?:async def |def |class )?([\w.]+)", line)
        assert found is not None, line
        names[found[1]] = line
    return names


def _takes_more(old: str, new: str) -> bool:
    """Return whether each call of the one is a call of the other: what is added is optional, and stands at the end."""
    (head, before, returns), (new_head, after, new_returns) = _parts(old), _parts(new)
    if (head, returns) != (new_head, new_returns):
        return False
    positional, named = _split(before)
    new_positional, new_named = _split(after)
    added = new_positional[len(positional) :] + [each for each in new_named if each not in named]
    return (
        new_positional[: len(positional)] == positional
        and set(named) <= set(new_named)
        and all(" = " in each or each.startswith("*") for each in added)
    )


def _parts(line: str) -> tuple[str, list[str], str]:
    """Take `def name(parameters) -> returns` apart."""
    opening = line.find("(")
    if opening < 0 or not re.match(r"(async )?def ", line):
        return line, [], ""
    depth, parameters, start = 0, [], opening + 1
    quote = ""
    for position in range(opening, len(line)):
        character = line[position]
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        if not quote and ((depth == 1 and character == ",") or depth == 0):
            parameters.append(line[start:position].strip())
            start = position + 1
            if depth == 0:
                break
    return line[:opening], [each for each in parameters if each], line[start:].strip()


def _split(parameters: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell what is taken by position from what is taken by name alone."""
    bar = next((index for index, each in enumerate(parameters) if each.startswith("*")), len(parameters))
    return list(parameters[:bar]), [each for each in parameters[bar:] if each != "*"]


def last_tag() -> str | None:
    """Return the newest tag of a release that this tree comes from, or None before the first one."""
    command = ["git", "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def set_version(version: Version) -> None:
    """Write a version into every distribution."""
    bound = f">={version},<{version.major}.{version.minor + 1}"
    for path in [PROJECT, *sorted(ROOT.glob("packages/*/pyproject.toml")), ROOT / "conformance/pyproject.toml"]:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r'^version = "[^"]*"$', f'version = "{version}"', text, count=1, flags=re.MULTILINE)
        text = re.sub(rf'"({OURS}(?:\[\w+\])?)>=[^"]*"', rf'"\1{bound}"', text)
        path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 if this tree's version is too low for what has changed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--set", type=Version.parse, metavar="VERSION", help="write it into every distribution")
    parser.add_argument("--tag", help="fail unless this tag names the version of this tree, as in v0.2.0")
    options = parser.parse_args(arguments)
    if options.set:
        set_version(options.set)
    version, tag = current(), last_tag()
    if options.tag and options.tag != f"v{version}":
        print(f"error: the tag is {options.tag}, and the version of this tree is {version}", file=sys.stderr)
        return 1
    if tag is None or tag == f"v{version}":
        print(f"{version}: {'the first release' if tag is None else 'released'}")
        return 0
    then = subprocess.run(["git", "show", f"{tag}:{API}"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = changes(then, (ROOT / API).read_text(encoding="utf-8"))
    level = max((level for level, _ in found), default=Level.PATCH)
    print("\n".join(line for _, line in found))
    needed = Version.parse(tag.removeprefix("v")).next(level)
    print(f"since {tag}: {level.name.lower()}; the next version is {needed} or higher, this tree has {version}")
    return 0 if version >= needed else 1


if __name__ == "__main__":
    sys.exit(main())
