"""The exception tree.

StargraphError
├── GraphError                   the graph's definition is wrong, or code that it names
├── StateError                   a value does not fit the state, or is not JSON
├── NodeError                    a node failed
│   └── CallError                what a node called by ctx.call has raised
└── CheckpointError              a store refused, or a run cannot go on from what is stored
    ├── HashMismatchError        the stored run was made by another graph or other code
    ├── CheckpointConflictError  another executor wrote this step, or the run moved on
    ├── CheckpointNotFoundError  no such run, or no such step
    ├── CheckpointCorruptedError a stored record is not what was written
    ├── StoreUnavailableError    the store cannot be reached or cannot store now
    ├── StoreVersionError        the store's format is not one that this software reads
    └── DriverNotFoundError      no installed driver opens that URL
"""

from __future__ import annotations


class StargraphError(Exception):
    """The root of every exception that Stargraph raises.

    Args:
        message: what happened, and to what.
        reason: a stable kebab-case word for programs; part of the API.
        hint: what to do about it.
    """

    def __init__(self, message: str, *, reason: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class GraphError(StargraphError):
    """The graph's definition is wrong, or the code that it names cannot be loaded.

    Args:
        message: what is wrong.
        reason: a stable kebab-case word.
        hint: what to do.
        file: the file that holds the definition.
        line: the line in it, from 1.
        column: the column in it, from 1.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        hint: str | None = None,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        super().__init__(message, reason=reason, hint=hint)
        self.file = file
        self.line = line
        self.column = column

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return f"{place}: {super().__str__()}" if place else super().__str__()


class StateError(StargraphError):
    """A value does not fit the state that the graph declares, or is not JSON.

    Args:
        message: what is wrong.
        reason: a stable kebab-case word.
        hint: what to do.
        path: the place of the value, as in `state.user.scores[3]`.
        node: the node that returned it, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        hint: str | None = None,
        path: str | None = None,
        node: str | None = None,
    ) -> None:
        super().__init__(message, reason=reason, hint=hint)
        self.path = path
        self.node = node


class NodeError(StargraphError):
    """A node failed.

    Args:
        message: what is wrong.
        reason: a stable kebab-case word.
        hint: what to do.
        node: the id of the node.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        hint: str | None = None,
        node: str | None = None,
        run_id: str | None = None,
    ) -> None:
        super().__init__(message, reason=reason, hint=hint)
        self.node = node
        self.run_id = run_id


class CallError(NodeError):
    """A function that a node called by `ctx.call` raised an exception: at first, after a resume and in a replay alike.

    Catch this class and not that of the function's exception, of which only the name is recorded.

    Args:
        message: what is wrong.
        reason: always `call-failed`.
        hint: what to do.
        node: the id of the node.
        call: the name of the call.
        error_type: the class of the exception, with its module unless it is builtin.
        error_message: the text of the exception.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        hint: str | None = None,
        node: str | None = None,
        run_id: str | None = None,
        call: str = "",
        error_type: str = "",
        error_message: str = "",
    ) -> None:
        super().__init__(message, reason=reason, hint=hint, node=node, run_id=run_id)
        self.call = call
        self.error_type = error_type
        self.error_message = error_message


class CheckpointError(StargraphError):
    """A store refused a request, or a run cannot go on from what is stored.

    Args:
        message: what happened.
        reason: a stable kebab-case word; the contract names those of `write`.
        hint: what to do.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        hint: str | None = None,
        run_id: str | None = None,
        step: int | None = None,
    ) -> None:
        super().__init__(message, reason=reason, hint=hint)
        self.run_id = run_id
        self.step = step


class HashMismatchError(CheckpointError):
    """The stored run was made by another graph, or by other code of its nodes.

    Args:
        message: what changed.
        reason: `graph-hash` or `runtime-hash`.
        hint: the ways out.
        step: the step whose checkpoint was compared.
        stored: the hash in the checkpoint.
        loaded: the hash of the graph that was loaded.
        changes: what changed, one sentence each.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        hint: str | None = None,
        run_id: str | None = None,
        step: int | None = None,
        stored: str = "",
        loaded: str = "",
        changes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, reason=reason, hint=hint, run_id=run_id, step=step)
        self.stored = stored
        self.loaded = loaded
        self.changes = changes


class CheckpointConflictError(CheckpointError):
    """Another executor wrote this step, or the run moved on: the writer has lost the run.

    What was stored stays. A writer that gets this error must stop: another executor owns the run.
    """


class CheckpointNotFoundError(CheckpointError):
    """The store holds no such run, or no such step of it."""


class CheckpointCorruptedError(CheckpointError):
    """A stored record is not what was written: its digest or its seal does not fit."""


class StoreUnavailableError(CheckpointError):
    """The store cannot be reached, or cannot store now; the outcome of a write is then unknown.

    Writing the same checkpoint again is always safe.
    """


class StoreVersionError(CheckpointError):
    """A store, a record or an export has a format that this software does not read; nothing was changed."""


class DriverNotFoundError(CheckpointError):
    """No installed driver opens that URL."""


# A traceback, a record and `inspect` show the name that a user imports.
for _error in [each for each in globals().values() if isinstance(each, type)]:
    _error.__module__ = "stargraph.errors"
