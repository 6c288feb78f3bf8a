"""Take runs from one store to another, or into a file and back; what arrives is read back and compared."""

from stargraph.runtime._reading import Progress
from stargraph.transfer._copy import copy_runs
from stargraph.transfer._export import export_runs, import_runs
from stargraph.transfer._reports import Refusal, TransferReport

__all__ = ["Progress", "Refusal", "TransferReport", "copy_runs", "export_runs", "import_runs"]
