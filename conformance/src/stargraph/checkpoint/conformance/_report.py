"""Verdicts, the level that they add up to, and the facts that a report carries."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal, TypeAlias

from stargraph.checkpoint.conformance._capabilities import FLEET
from stargraph.checkpoint.conformance._registry import Check

Verdict: TypeAlias = Literal["pass", "fail", "too-slow", "blocked", "skip", "expected-failure", "error"]
"""pass, fail; too-slow: it came to no end in its time though no call hung, so nothing was found and nothing proved;
blocked: a check that this one needs did not pass; skip: the capability is not declared, or the store cannot be opened
from other processes; expected-failure: a known failure of an optional check; error: the kit or its surroundings
failed."""

Level: TypeAlias = Literal["full", "core", "partial", "none"]
"""full: every check of the catalogue passed; core: every required check, and every check of the declared
capabilities but known failures; partial: nothing was found, but not every required check was executed, or the run was
interrupted; none: something was found, or nothing was executed."""

FORMAT: Final = 2
"""The version of the report; docs/conformance-report.schema.json describes it."""

CONTRACT: Final = 1
"""The version of the contract whose clauses the checks name."""

DISTRIBUTION: Final = "stargraph-conformance"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one check.

    Attributes:
        check: the check.
        verdict: how it ended.
        message: what was found, or why it was not executed.
        details: more lines, such as a traceback.
        seconds: how long it took.
        measurements: name, value and unit of what an advisory check measured.
    """

    check: Check
    verdict: Verdict
    message: str = ""
    details: str = ""
    seconds: float = 0.0
    measurements: tuple[tuple[str, float, str], ...] = ()

    def explained(self) -> str:
        """The violation with what the contract says and what usually causes it."""
        lines = [self.message]
        if self.verdict in ("fail", "expected-failure"):
            lines.append(f"contract ({self.check.contract}): {self.check.reason}")
            lines.append(f"usual cause: {self.check.usual_cause}")
        if self.details:
            lines.append(self.details)
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a run of the kit.

    Attributes:
        target: what was tested, as it was given.
        driver: the class of the driver.
        seed: what chance was seeded with.
        catalogue: every check that there is.
        results: what was executed, in the order of the catalogue.
        environment: what it ran on.
        started: when the run began.
        options: what the run was asked for.
        capabilities: what the driver declares beside the required methods.
        versions: of the driver and its server, as the target declares them.
        interrupted: the exit code of a run that was ended before all the checks that it was to execute; the level is
            at most partial then. None if it was not.
    """

    target: str
    driver: str
    seed: int
    catalogue: tuple[Check, ...]
    results: tuple[Result, ...]
    environment: dict[str, str] = field(default_factory=dict)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    options: dict[str, Any] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    interrupted: int | None = None

    def count(self, *verdicts: Verdict) -> int:
        """How many checks that count ended with one of these."""
        return sum(result.verdict in verdicts for result in self.results if not result.check.advisory)

    @property
    def level(self) -> Level:
        """How far the driver is proved; graded on what was executed against the whole catalogue."""
        verdicts = {result.check.id: result.verdict for result in self.results}
        counted = [check for check in self.catalogue if not check.advisory]
        if self.count("fail", "error") or not self.count("pass"):
            return "none"
        if self.interrupted is not None or any(verdicts.get(check.id) != "pass" for check in counted if check.required):
            return "partial"
        # What only workers need may be left out as a whole.
        due = [check for check in counted if check.capability not in FLEET or verdicts.get(check.id) != "skip"]
        if all(verdicts.get(check.id) == "pass" for check in due):
            return "full"
        optional = (verdicts.get(check.id) for check in counted if not check.required)
        return "core" if all(verdict in ("pass", "skip", "expected-failure") for verdict in optional) else "partial"

    @property
    def exit_code(self) -> int:
        """0 conformant, 1 violations, 2 nothing or only partly evaluated, 3 the kit or its surroundings failed.

        Of a run that was interrupted it is 130 (ctrl-C) or 143 (SIGTERM).
        """
        if self.interrupted is not None:
            return self.interrupted
        if self.count("fail"):
            return 1
        if self.count("error"):
            return 3
        return 0 if self.level in ("full", "core") else 2

    def to_json(self) -> dict[str, Any]:
        """The whole report as plain data."""
        return {
            "format": FORMAT,
            "kit": kit_version(),
            "contract": CONTRACT,
            "date": self.started.isoformat(timespec="seconds"),
            "target": self.target,
            "driver": self.driver,
            "versions": self.versions,
            "capabilities": list(self.capabilities),
            "options": self.options,
            "interrupted": self.interrupted is not None,
            "level": self.level,
            "exit_code": self.exit_code,
            "seed": self.seed,
            "environment": self.environment,
            "catalogue": len([check for check in self.catalogue if not check.advisory]),
            "results": [_result_to_json(result) for result in self.results],
        }


def _result_to_json(result: Result) -> dict[str, Any]:
    facts = asdict(result)
    check = result.check
    facts["check"] = {
        "id": check.id,
        "version": check.version,
        "required": check.required,
        "capability": check.capability,
        "advisory": check.advisory,
        "reason": check.reason,
        "contract": check.contract,
    }
    facts["measurements"] = [{"name": name, "value": value, "unit": unit} for name, value, unit in result.measurements]
    return facts


def kit_version() -> str:
    """The version of the kit."""
    return _version_of(DISTRIBUTION)


def environment() -> dict[str, str]:
    """What the kit runs on."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "stargraph-core": _version_of("stargraph-core"),
    }


def _version_of(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
