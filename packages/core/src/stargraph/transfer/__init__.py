"""Take runs to another store, or into a file and back, or remove them; what arrives is read back and compared."""

from stargraph.runtime._reading import Progress
from stargraph.transfer._copy import copy_runs
from stargraph.transfer._delete import delete_runs
from stargraph.transfer._export import export_runs, import_runs
from stargraph.transfer._move import move_runs
from stargraph.transfer._reports import Refusal, TransferReport

__all__ = [
    "Progress",
    "Refusal",
    "TransferReport",
    "copy_runs",
    "delete_runs",
    "export_runs",
    "import_runs",
    "move_runs",
]
