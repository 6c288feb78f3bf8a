"""Exceptions as a log records them, and what can still be told of them by their recorded names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from stargraph.checkpoint.protocol import ErrorInfo, Task
from stargraph.errors import CallError, NodeError

_TRACEBACK_LIMIT: Final = 16_384

_FINAL: Final = frozenset({"question-lost", "concurrent-questions"})


def error_info(error: BaseException, *, node: str | None, reason: str | None = None) -> ErrorInfo:
    """Return an exception as it is recorded.

    Args:
        error: the exception.
        node: the node that raised it.
        reason: a stable word; that of the exception where None.
    """
    import traceback

    text = "".join(traceback.format_exception(error))
    if len(text) > _TRACEBACK_LIMIT:
        half = _TRACEBACK_LIMIT // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return ErrorInfo(
        type=_name_of(type(error)),
        message=_storable(str(error)),
        reason=reason or getattr(error, "reason", None),
        node=node,
        traceback=_storable(text),
    )


def node_cancelled(task: Task) -> NodeError:
    """Return the error of a node that was cancelled, and not by its engine.

    Args:
        task: the task.
    """
    return NodeError("the node was cancelled from inside", reason="node-cancelled", node=task.node)


def call_error(name: str, recorded: ErrorInfo) -> CallError:
    """Return what `ctx.call` raises where the function has raised: the same when it happens and ever after.

    Args:
        name: the name of the call.
        recorded: what the function raised.
    """
    return CallError(
        f"call {name!r} failed: {recorded.type}: {recorded.message}",
        reason="call-failed",
        node=recorded.node,
        call=name,
        error_type=recorded.type,
        error_message=recorded.message,
    )


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that led to it: its causes, its contexts and the members of groups.

    Args:
        error: the exception.
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        members = link.exceptions if isinstance(link, BaseExceptionGroup) else ()
        waiting += [each for each in (*members, link.__cause__, link.__context__) if each is not None]


def is_final(error: BaseException) -> bool:
    """Tell whether an exception is a mistake of the node's code that no further try can heal.

    Args:
        error: the exception.
    """
    return isinstance(error, NodeError) and error.reason in _FINAL


def is_any_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Tell whether an exception, or what a failed call stands for, is of one of some classes.

    A recorded call has the name of its exception alone. No class is imported for it: what can be caught by its class
    has been imported by whoever names the class.

    Args:
        error: the exception.
        kinds: the classes.
    """
    if isinstance(error, kinds):
        return True
    return isinstance(error, CallError) and any(
        error.error_type == name for kind in kinds for name in _names_below(kind)
    )


def _names_below(kind: type[BaseException]) -> Iterator[str]:
    yield _name_of(kind)
    for narrower in kind.__subclasses__():
        yield from _names_below(narrower)


def _name_of(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _storable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
