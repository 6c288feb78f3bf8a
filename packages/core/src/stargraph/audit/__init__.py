"""Prove that stored runs are what was written: `verify` reads every record, `anchor` notes where each run stands."""

from stargraph.audit._anchor import Anchor, Head, anchor
from stargraph.audit._reports import Finding, Note, RunReport, VerifyReport
from stargraph.audit._verify import verify, verify_run
from stargraph.runtime._reading import Progress

__all__ = [
    "Anchor",
    "Finding",
    "Head",
    "Note",
    "Progress",
    "RunReport",
    "VerifyReport",
    "anchor",
    "verify",
    "verify_run",
]
