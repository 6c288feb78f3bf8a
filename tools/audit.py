"""Ask the advisories about every package that requirements.lock pins: `make audit`.

It fails if a package has a known vulnerability. Packages that could not be looked up are counted; that fails too if CI
is set, so that an audit never passes there because nobody was asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
COMMAND: Final = (
    str(Path(sys.executable).with_name("pip-audit")),
    *("--requirement", "requirements.lock", "--require-hashes", "--disable-pip", "--format", "json"),
)


def judge(report: str, *, in_ci: bool) -> tuple[int, list[str]]:
    """Return the exit code and the lines that a report of pip-audit deserves.

    Args:
        report: its JSON; empty text if it could not be made.
        in_ci: fail also if packages were not looked up.
    """
    packages: list[dict[str, Any]] = json.loads(report)["dependencies"] if report.strip() else []
    lines = [
        f"{package['name']} {package['version']}: {each['id']}, fixed in {', '.join(each['fix_versions']) or 'none'}"
        for package in packages
        for each in package.get("vulns", ())
    ]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if lines:
        return 1, [*lines, "error: take the fixed versions with `make lock`"]
    if skipped or not packages:
        which = f"{len(skipped)} of {len(packages)} packages were not" if packages else "no package was"
        lines = [f"{which} looked up: the advisories cannot be asked from here"]
        return (1, [*lines, "error: this is CI, and an audit that asked nobody is none"]) if in_ci else (0, lines)
    return 0, [f"{len(packages)} packages, none with a known vulnerability"]


def main() -> int:
    """Run the command."""
    done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, check=False)
    code, lines = judge(done.stdout, in_ci=bool(os.environ.get("CI")))
    if not done.stdout.strip():
        lines.insert(0, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip-audit said nothing")
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
