"""The conformance kit: prove that a checkpoint driver keeps the contract."""

from stargraph.checkpoint.conformance._capabilities import Capability
from stargraph.checkpoint.conformance._catalogue import catalogue
from stargraph.checkpoint.conformance._expect import HarnessError, NotEvaluated, Violation
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Check, Group
from stargraph.checkpoint.conformance._report import Level, Report, Result, Verdict
from stargraph.checkpoint.conformance._run import run, select
from stargraph.checkpoint.conformance._runner import Session
from stargraph.checkpoint.conformance._target import StoredBytes, Target, fresh_directory

__all__ = [
    "Capability",
    "Check",
    "Group",
    "HarnessError",
    "Kit",
    "Level",
    "NotEvaluated",
    "Report",
    "Result",
    "Session",
    "StoredBytes",
    "Target",
    "Verdict",
    "Violation",
    "catalogue",
    "fresh_directory",
    "run",
    "select",
]
