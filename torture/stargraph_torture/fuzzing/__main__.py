"""Goes through the doors by coverage, with atheris, for some seconds each.

    PYTHONPATH=torture:tests python -m stargraph_torture.fuzzing --seconds 60 --seed 1 [DOOR...]

Exits with 1 where a door fails; the bytes that did it are written to `crash-…` in the folder of `--keep`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from stargraph_torture.fuzzing.doors import DOORS
from stargraph_torture.seeds import SEED_VARIABLE, first_seed

_ONE_DOOR = """
import sys
import atheris
with atheris.instrument_imports(include=["stargraph", "ruamel.yaml"]):
    from stargraph_torture.fuzzing.doors import DOORS
atheris.Setup(sys.argv[1:], DOORS[sys.argv[1]].enter)
atheris.Fuzz()
"""


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("doors", nargs="*", metavar="DOOR", help=", ".join(DOORS))
    parser.add_argument("--seconds", type=int, default=60, help="for each door")
    parser.add_argument("--seed", type=int, default=first_seed(), help=f"else {SEED_VARIABLE}")
    parser.add_argument("--keep", type=Path, default=Path.cwd(), help="where to put what breaks a door")
    options = parser.parse_args()
    if find_spec("atheris") is None:
        print("atheris is not here; it has wheels for Linux and Python 3.11 to 3.13: make torture installs it there")
        return 0
    print(f"seed {options.seed}")
    failed = [door for door in options.doors or DOORS if not _fuzz(door, options)]
    return 1 if failed else 0


def _fuzz(door: str, options: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(DOORS[door].seeds):
            (Path(corpus) / f"seed-{number}").write_bytes(seed)
        limits = [f"-max_total_time={options.seconds}", f"-seed={options.seed}", "-timeout=20", "-rss_limit_mb=1024"]
        limits += ["-max_len=20000", f"-artifact_prefix={options.keep}/", "-print_final_stats=1", "-verbosity=0"]
        done = subprocess.run(
            [sys.executable, "-c", _ONE_DOOR, door, *limits, corpus],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    runs = next((line.split()[-1] for line in done.stdout.splitlines() if "number_of_executed_units" in line), "?")
    print(f"{door}: {runs} inputs, " + ("all dealt with" if done.returncode == 0 else "FAILED"), flush=True)
    if done.returncode:
        print("\n".join(line for line in done.stdout.splitlines() if not line.startswith("INFO")))
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
