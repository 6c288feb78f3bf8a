"""The conformance kit: prove that a checkpoint driver keeps the contract."""

from stargraph.checkpoint.conformance._capabilities import Capability
from stargraph.checkpoint.conformance._catalogue import catalogue
from stargraph.checkpoint.conformance._findings import Finding, HarnessError, NotEvaluated
from stargraph.checkpoint.conformance._kit import Kit
from stargraph.checkpoint.conformance._registry import Check, Group
from stargraph.checkpoint.conformance._report import Level, Report, Result, Verdict
from stargraph.checkpoint.conformance._runner import Session, run, select
from stargraph.checkpoint.conformance._target import StoredBytes, Target, fresh_directory

__all__ = [
    "Capability",
    "Check",
    "Finding",
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
    "catalogue",
    "fresh_directory",
    "run",
    "select",
]
