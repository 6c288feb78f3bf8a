"""A graph: its definition, with the code that it names, ready to be run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from stargraph.checkpoint.codec import Keyring
from stargraph.checkpoint.protocol import Checkpointer, is_run_id
from stargraph.engine import WATCH_SECONDS, Durability, Expression, Modules, Plan, StateSpec
from stargraph.errors import CheckpointError, GraphError
from stargraph.graph._run import Run
from stargraph.ir import IRDocument, check_document, load_graph

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import JsonValue


class Graph:
    """A graph that can be run.

    Args:
        ir: its definition.
        folder: the folder that paths of subgraphs are relative to; the current folder if None.
        integrity_key: seals what is written and checks what is read: a `Keyring`, or keys as
            `Keyring.parse` reads them; the environment variable `STARGRAPH_INTEGRITY_KEY` if None.

    Attributes:
        file: the file that it was loaded from, or None.

    Raises:
        GraphError: the definition is wrong, or the code that it names cannot be imported.
    """

    def __init__(
        self,
        ir: IRDocument,
        *,
        folder: str | os.PathLike[str] | None = None,
        integrity_key: Keyring | str | None = None,
    ) -> None:
        check_document(ir, compile_expression=Expression)
        self._set_up(_build(ir, Path(folder or Path.cwd()), (), Modules(), []), integrity_key)

    def _set_up(self, plan: Plan, integrity_key: Keyring | str | None) -> None:
        self._plan = plan
        if isinstance(integrity_key, str):
            integrity_key = Keyring.parse(integrity_key)
        self._keyring = integrity_key or Keyring.from_environment()
        self.file: Path | None = None

    def __repr__(self) -> str:
        return f"Graph({self.id!r}, graph_hash={self.graph_hash[:12]!r})"

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        integrity_key: Keyring | str | None = None,
        code: Sequence[str | os.PathLike[str]] = (),
    ) -> Graph:
        """Load a graph from a YAML or JSON file.

        Its nodes may be in modules beside the file. Those belong to this graph: they are loaded under a name of their
        own, anew if they have changed, and no other code meets them. A module that the process itself finds at that
        very place, as in `import steps` of a script beside it, is that module.

        Args:
            path: the file.
            integrity_key: as for the constructor.
            code: further folders, for modules that are neither beside the file nor installed.

        Raises:
            GraphError: the file cannot be read, or the definition is wrong; with its line and column.
        """
        file = Path(path).resolve()
        others = [Path(folder).resolve() for folder in code]
        document = load_graph(path, compile_expression=Expression)
        graph = cls.__new__(cls)
        graph._set_up(_build(document, file.parent, (file,), Modules.beside(file, others), others), integrity_key)
        graph.file = Path(path)
        return graph

    @property
    def state(self) -> StateSpec:
        """The state that the graph declares."""
        return self._plan.state

    @property
    def id(self) -> str:
        """The id of the graph."""
        return self._plan.document.id

    @property
    def ir(self) -> IRDocument:
        """The definition."""
        return self._plan.document

    @property
    def graph_hash(self) -> str:
        """The fingerprint of what shapes execution, 64 hex digits."""
        return self._plan.graph_hash

    @property
    def runtime_hash(self) -> str:
        """The fingerprint of the code of the nodes, 64 hex digits."""
        return self._plan.runtime_hash

    async def start(
        self,
        *,
        checkpointer: Checkpointer,
        inputs: Mapping[str, JsonValue] | None = None,
        run_id: str | None = None,
        metadata: Mapping[str, str] | None = None,
        durability: Durability = "sync",
        executor: Executor | None = None,
        watch: float = WATCH_SECONDS,
    ) -> Run:
        """Return a run of this graph; nothing is read or written before its `start` or `resume`.

        Args:
            checkpointer: the store.
            inputs: the values that the state begins with.
            run_id: its name; a UUIDv7 if None.
            metadata: tags.
            durability: when a step is durable: `sync` before what depends on it starts; `async` while the
                next node runs; `exit` when the run stops.
            executor: where sync nodes run; threads of the run's own if None.
            watch: the longest time in seconds before a running executor sees what other processes have appended:
                answers, a cancellation, a takeover. It costs a read each time, while nodes run; 0 never looks.

        Raises:
            CheckpointError: the run id is not one (`reason="invalid-run-id"`).
            TypeError: `checkpointer` is not a checkpointer.
            ValueError: there is no such durability, or `watch` is negative.
        """
        if isinstance(checkpointer, type) or not isinstance(checkpointer, Checkpointer):
            raise TypeError(
                f"checkpointer is {checkpointer!r}: pass an instance with the methods of stargraph.checkpoint.protocol"
                ".Checkpointer"
            )
        if durability not in get_args(Durability):
            raise ValueError(f"durability is {durability!r}: use one of {', '.join(get_args(Durability))}")
        if not watch >= 0:
            raise ValueError(f"watch is {watch!r}: give seconds, or 0 to look only when a step is written")
        if run_id is not None and not is_run_id(run_id):
            raise CheckpointError(
                f"{run_id!r:.220} cannot be a run id",
                reason="invalid-run-id",
                hint="A run id is 1-200 characters of A-Z a-z 0-9 . _ : - and begins with a letter or digit.",
            )
        return Run(
            self._plan,
            checkpointer,
            inputs=dict(inputs or {}),
            run_id=run_id,
            metadata=dict(metadata or {}),
            durability=durability,
            executor=executor,
            keyring=self._keyring,
            watch=watch,
        )


def _build(document: IRDocument, folder: Path, above: tuple[Path, ...], modules: Modules, others: list[Path]) -> Plan:
    """Make a graph and the graphs of its subgraph nodes ready to run; each of these finds the modules beside itself."""

    def load_child(reference: str) -> Plan:
        path = (folder / reference).resolve()
        if path in above:
            raise GraphError(
                f"{reference}: a graph cannot contain itself: {' → '.join(str(step.name) for step in (*above, path))}",
                reason="recursive-subgraph",
                file=str(path),
            )
        child = load_graph(path, compile_expression=Expression)
        return _build(child, path.parent, (*above, path), Modules.beside(path, others), others)

    return Plan.build(document, load_child, modules)
