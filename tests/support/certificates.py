"""Certificates of the drivers of this repository: `python -m support.certificates [DRIVER...]`, in `tests`, makes them.

Each is the report of all checks of the conformance kit, against a server that is started for it, signed and verified.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from stargraph.checkpoint.conformance._certificate import KEY_VARIABLE, make_key
from support.postgres_server import any_server
from support.postgres_target import SERVER_VARIABLE
from support.s3.servers import ENVIRONMENT, seaweed_server
from support.workspace import ROOT

FOLDER: Final = ROOT / "build/certificates"

_KIT: Final = (sys.executable, "-m", "stargraph.checkpoint.conformance")

Environment = Mapping[str, str]


@contextmanager
def _sqlite() -> Iterator[Environment]:
    yield {}


@contextmanager
def _postgres() -> Iterator[Environment]:
    with any_server() as dsn:
        yield {SERVER_VARIABLE: dsn}


@contextmanager
def _s3() -> Iterator[Environment]:
    with tempfile.TemporaryDirectory(prefix="stargraph-seaweed-") as folder, seaweed_server(Path(folder)) as url:
        yield {**ENVIRONMENT, "AWS_ENDPOINT_URL_S3": url}


TARGETS: Final[Mapping[str, tuple[str, Callable[[], AbstractContextManager[Environment]]]]] = {
    "sqlite": ("support.conformance_targets:sqlite", _sqlite),
    "postgres": ("support.postgres_target:target", _postgres),
    "s3": ("support.s3.conformance_target:target", _s3),
}


def certify(driver: str, key: str, signer: str, *options: str) -> int:
    """Make the certificate of a driver, and verify it.

    Args:
        driver: a name of `TARGETS`.
        key: the private key that signs it.
        signer: the public part of that key.
        options: of `stargraph-conformance run`.

    Returns:
        0 if the driver is conformant and its certificate is valid; otherwise the exit code of the kit.
    """
    target, serving = TARGETS[driver]
    certificate, report = FOLDER / f"{driver}.json", FOLDER / f"{driver}.md"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with serving() as environment:
        command = [*_KIT, "run", target, "--certificate", str(certificate), "--markdown", str(report), *options]
        done = subprocess.run(
            command,
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT / "tests"), KEY_VARIABLE: key},
            check=False,
        )
    return (
        done.returncode
        or subprocess.run([*_KIT, "verify", str(certificate), "--signer", signer], check=False).returncode
    )


def main(drivers: list[str]) -> int:
    """Make the certificates of the drivers, or of all; return the first exit code that is not 0."""
    unknown = sorted(set(drivers) - set(TARGETS))
    if unknown:
        print(f"error: there is no driver {', '.join(unknown)}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    private, public = make_key()
    codes = [certify(driver, private, public, "--jobs", "2") for driver in drivers or TARGETS]
    print(f"the certificates are in {FOLDER.relative_to(ROOT)}, signed with a key made for them: {public}")
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
