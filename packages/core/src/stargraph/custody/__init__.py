"""Custody of stored runs: prove that they are what was written, and move them; on any store, by the contract alone."""

from stargraph.custody._anchor import Anchor, Head, anchor
from stargraph.custody._copy import copy_runs
from stargraph.custody._export import export_runs, import_runs
from stargraph.custody._reading import Progress
from stargraph.custody._reports import Finding, Note, Refusal, RunReport, TransferReport, VerifyReport
from stargraph.custody._verify import verify, verify_run

__all__ = [
    "Anchor",
    "Finding",
    "Head",
    "Note",
    "Progress",
    "Refusal",
    "RunReport",
    "TransferReport",
    "VerifyReport",
    "anchor",
    "copy_runs",
    "export_runs",
    "import_runs",
    "verify",
    "verify_run",
]
