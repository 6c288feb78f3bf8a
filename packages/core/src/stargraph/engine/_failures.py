"""Exceptions as a log records them, and what their recorded names still say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeGuard, TypeVar

from stargraph.checkpoint.protocol import ErrorInfo, RecordedCall, Task
from stargraph.engine._folders import plain_name, plain_text
from stargraph.errors import CallError, NodeError, StargraphError

_MESSAGE_LIMIT: Final = 16_384
_TRACEBACK_LIMIT: Final = 16_384
_NAME_LIMIT: Final = 500

NOT_STORABLE: Final = "result-not-storable"
"""The reason of a recorded call whose function returned, and whose result cannot be stored."""

_FINAL: Final = frozenset(
    {"question-lost", "concurrent-questions", "still-running", "node-exited", "node-interrupted", NOT_STORABLE}
)


class RemoteNodeError(Exception):
    """Stands for an exception of a node in another process, which is recorded there and does not cross over itself.

    Args:
        info: the exception as it is recorded.
        classes: the names of its class and of those above.
        members: if it is a group, those names of each exception in it.
    """

    def __init__(self, info: ErrorInfo, classes: tuple[str, ...], members: tuple[tuple[str, ...], ...] = ()) -> None:
        super().__init__(info.message)
        self.info = info
        self.classes = classes
        self.members = members


Kind = TypeVar("Kind", bound=BaseException)


def is_a(error: BaseException | None, kind: type[Kind]) -> TypeGuard[Kind]:
    """Like `isinstance`, which asks an object for its class, and that may be user code.

    Args:
        error: the exception.
        kind: the class.
    """
    return issubclass(type(error), kind)


def error_info(error: BaseException, *, node: str | None, reason: str | None = None) -> ErrorInfo:
    """Return an exception as it is recorded, whatever its class does when it is asked for its text.

    Args:
        error: the exception.
        node: the node that raised it.
        reason: a stable word; that of one of our own errors if None.
    """
    if is_a(error, RemoteNodeError):
        return error.info.model_copy(update={"node": node})
    return ErrorInfo(
        type=name_of(type(error)),
        message=_message_of(error),
        reason=reason or _reason_of(error),
        node=node,
        traceback=_traceback_of(error),
    )


def _message_of(error: BaseException) -> str:
    try:
        return _bounded(plain_text(str(error)), _MESSAGE_LIMIT)
    except BaseException as fault:  # noqa: BLE001  # the text of an exception is user code
        return f"(this exception has no text: its __str__ raised {name_of(type(fault))})"


def _reason_of(error: BaseException) -> str | None:
    # The word is API: an attribute of that name on anybody else's exception means something else.
    if not is_a(error, StargraphError):
        return None
    reason = error.__dict__.get("reason")
    return _bounded(reason, _NAME_LIMIT) if isinstance(reason, str) else None


def _traceback_of(error: BaseException) -> str:
    import traceback

    try:
        return _bounded(plain_text("".join(traceback.format_exception(error))), _TRACEBACK_LIMIT)
    except BaseException as fault:  # noqa: BLE001  # so are its notes, causes and members
        try:
            frames = "".join(traceback.format_tb(error.__traceback__))
        except BaseException:  # noqa: BLE001
            frames = ""
        text = f"{frames}{name_of(type(error))} (its traceback cannot be written: {name_of(type(fault))})"
        return _bounded(text, _TRACEBACK_LIMIT)


def _bounded(text: str, limit: int) -> str:
    """Return text that can be stored, without lone surrogates; the middle of a long one is replaced by a note."""
    # A subclass of str may slice and format itself as it likes.
    text = text if type(text) is str else str.__getitem__(text, slice(None))
    if len(text) > limit:
        half = limit // 2
        text = "".join((text[:half], f"\n… {len(text) - 2 * half} characters left out …\n", text[-half:]))
    return str.encode(text, "utf-8", "backslashreplace").decode()


def node_cancelled(task: Task) -> NodeError:
    """Return the error of a node that was cancelled, and not by its engine."""
    return NodeError("the node was cancelled from inside", reason="node-cancelled", node=task.node)


def call_error(name: str, recorded: ErrorInfo) -> CallError:
    """Return what `ctx.call` raises if the function has raised: the same when it happens and ever after.

    Args:
        name: the name of the call.
        recorded: what the function raised.
    """
    if recorded.reason == NOT_STORABLE:
        return CallError(
            f"call {name!r} was made and will not be repeated, but its result cannot be stored: {recorded.message}",
            reason=NOT_STORABLE,
            hint="Declare what the function returns, or give returns=…: a type that says how its values are stored. The"
            " node may catch this error and go on. A fork without the call (drop_calls) makes it once more.",
            node=recorded.node,
            call=name,
            error_type=recorded.type,
            error_message=recorded.message,
        )
    return CallError(
        f"call {name!r} failed: {recorded.type}: {recorded.message}",
        reason="call-failed",
        node=recorded.node,
        call=name,
        error_type=recorded.type,
        error_message=recorded.message,
    )


def is_made_anew(call: RecordedCall) -> bool:
    """Return whether a further attempt makes a recorded call again: it failed, so that its effect has not happened."""
    return call.kind == "call" and call.error is not None and call.error.reason != NOT_STORABLE


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
        led_to_it = (*_direct_members(link), link.__cause__, link.__context__)
        waiting += [each for each in led_to_it if each is not None]


def _direct_members(error: BaseException) -> tuple[BaseException, ...]:
    # Past the group's own class, which may have an attribute of that name.
    return BaseExceptionGroup.exceptions.__get__(error) if is_a(error, BaseExceptionGroup) else ()


def members_of(error: BaseException) -> list[BaseException]:
    """Return the exceptions in a group, at any depth; none of an exception that is no group.

    Args:
        error: the exception.
    """
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if is_a(each, BaseExceptionGroup):
            waiting += reversed(_direct_members(each))
        elif each is not error:
            found.append(each)
    return found


def is_final(error: BaseException) -> bool:
    """Return whether an exception, or one in a group, ends the node whatever its `retry` says.

    It is a mistake of the node's code that no further attempt heals, or was meant for the process and no `Exception`.

    Args:
        error: the exception.
    """
    if is_a(error, RemoteNodeError):
        return error.info.reason in _FINAL
    return any(is_a(each, NodeError) and each.reason in _FINAL for each in (error, *members_of(error)))


def is_any_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Return whether an exception, or what a failed call stands for, is of one of some classes.

    A group is if each exception in it is: `asyncio.TaskGroup` raises one even for a single exception. A recorded call
    has the name of its exception alone. No class is imported for it: what can be caught by its class has been imported
    by whoever names the class.

    Args:
        error: the exception.
        kinds: the classes.
    """
    if is_a(error, RemoteNodeError):
        names = {name_of(kind) for kind in kinds}
        return not names.isdisjoint(error.classes) or (
            bool(error.members) and not any(names.isdisjoint(classes) for classes in error.members)
        )
    members = members_of(error)
    return _is_one_of(error, kinds) or (bool(members) and all(_is_one_of(each, kinds) for each in members))


def _is_one_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    if issubclass(type(error), kinds):
        return True
    return is_a(error, CallError) and any(error.error_type == name for kind in kinds for name in _names_below(kind))


def _names_below(kind: type[BaseException]) -> Iterator[str]:
    yield name_of(kind)
    for narrower in type.__subclasses__(kind):
        yield from _names_below(narrower)


def classes_of(error: BaseException) -> tuple[str, ...]:
    """Return the names of an exception's class and of those above it.

    Args:
        error: the exception.
    """
    return tuple(name_of(kind) for kind in type.__dict__["__mro__"].__get__(type(error)))


def name_of(kind: type) -> str:
    """Return what a class is called in a record: its module and name, the name alone of a builtin one.

    Args:
        kind: the class; neither name need be what a class is usually called.
    """
    # Read past the class's own metaclass, whose attributes are user code.
    name: str = type.__dict__["__qualname__"].__get__(kind)
    module = type.__dict__["__dict__"].__get__(kind).get("__module__")
    text = name if not isinstance(module, str) or module == "builtins" else f"{plain_name(module)}.{name}"
    return _bounded(text, _NAME_LIMIT)


def explained(raised: BaseException | None, node: str) -> BaseException | None:
    """Return what an attempt ends with; what is meant for the process ends the run alone, and says how to go on.

    Args:
        raised: what the node raised, or None.
        node: the node.
    """
    if is_a(raised, SystemExit):
        code = raised.code if type(raised.code) in (int, str) else ""
        did, reason = f"called sys.exit({code!r:.200})" if code != "" else "called sys.exit()", "node-exited"
    elif is_a(raised, KeyboardInterrupt):
        did, reason = "raised KeyboardInterrupt", "node-interrupted"
    else:
        return raised
    error = NodeError(
        f"the node {did}, which ends the run, but not the process",
        reason=reason,
        hint="A node ends by returning or by raising an Exception. Resume the run to run the node again.",
        node=node,
    )
    error.__cause__ = raised
    return error
