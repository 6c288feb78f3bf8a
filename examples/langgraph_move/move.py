"""Move an app with its threads: one waits for an approval while it is moved, and is approved afterwards."""

from __future__ import annotations

import argparse
import difflib
import shlex
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).parent
BIN = Path(sys.executable).parent


def run(*words: str) -> None:
    print(f"$ {shlex.join(words)}", flush=True)
    program = [sys.executable, str(HOME / words[1])] if words[0] == "python" else [str(BIN / words[0]), words[1]]
    subprocess.run([*program, *words[2:]], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".demo/langgraph"))
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    for name in ("theirs.sqlite", "ours.sqlite"):
        for left in work.glob(f"{name}*"):
            left.unlink()
    theirs, ours = str(work / "theirs.sqlite"), f"sqlite:///{work / 'ours.sqlite'}"
    run("python", "before.py", "ada", "taxi 14.50", "--store", theirs)
    run("python", "before.py", "ada", "hotel 420", "--store", theirs)
    run("stargraph-langgraph", "import", theirs, ours)
    before, after = ((HOME / name).read_text().splitlines() for name in ("before.py", "after.py"))
    print("$ diff before.py after.py")
    changes = [line for line in difflib.ndiff(before, after) if line[0] in "-+" and line[2:].strip()]
    print("\n".join(changes))
    run("python", "after.py", "ada", "--answer", "yes", "--store", ours)
    run("stargraph", "runs", "--checkpoint", str(work / "ours.sqlite"))
    run("stargraph", "verify", "--checkpoint", str(work / "ours.sqlite"))


if __name__ == "__main__":
    main()
