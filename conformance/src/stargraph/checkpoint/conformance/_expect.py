"""How a check says what it found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointConflictError, CheckpointError, StoreUnavailableError

T = TypeVar("T")


class Violation(AssertionError):
    """The driver broke the contract; the message says how."""


class HarnessError(Exception):
    """The kit or its surroundings failed, so nothing can be said about the driver."""


class NotEvaluated(Exception):
    """The check found nothing to look at; the message says why."""


def expect(condition: object, message: str) -> None:
    """Raise a violation unless the condition holds."""
    if not condition:
        raise Violation(message)


def error_line(error: BaseException) -> str:
    """An exception as one line."""
    text = str(error).strip().partition("\n")[0]
    reason = getattr(error, "reason", None)
    label = type(error).__name__ + (f"(reason={reason!r})" if reason else "")
    return f"{label}: {text}" if text else label


async def refused(
    call: Awaitable[object],
    what: str,
    expected: type[CheckpointError],
    reason: str,
    checkpoint: Checkpoint | None = None,
) -> CheckpointError:
    """Expect that a call raises an error of one class and reason; return the error.

    Args:
        what: the call in words, as the violation begins.
        expected: the class of the error.
        reason: the reason that it must carry.
        checkpoint: what was written, if the error must carry its run and step.
    """
    wanted = f"{expected.__name__}(reason={reason!r})"
    try:
        await call
    except CheckpointError as error:
        is_conflict = isinstance(error, CheckpointConflictError)
        # The engine acts on the class alone, so a gap that raises a conflict is as wrong as no error.
        if not isinstance(error, expected) or is_conflict != issubclass(expected, CheckpointConflictError):
            raise Violation(f"{what} raised {error_line(error)}; the contract wants {wanted}") from error
        if error.reason != reason:
            raise Violation(f"{what} raised {error_line(error)}; the contract wants the reason {reason!r}") from error
        if checkpoint is not None and (error.run_id, error.step) != (checkpoint.run_id, checkpoint.step):
            raise Violation(
                f"{what} raised an error about run {error.run_id!r}, step {error.step};"
                f" it was run {checkpoint.run_id!r}, step {checkpoint.step}"
            ) from error
        return error
    except Exception as error:
        raise Violation(f"{what} raised {error_line(error)}; the contract wants {wanted}") from error
    raise Violation(f"{what} succeeded; the contract wants {wanted}")


async def refused_argument(call: Awaitable[object], what: str) -> None:
    """Expect that a call refuses an argument with a ValueError."""
    try:
        await call
    except ValueError:
        return
    except Exception as error:
        raise Violation(f"{what} raised {error_line(error)}; the contract wants a ValueError") from error
    raise Violation(f"{what} succeeded; the contract wants a ValueError")


async def attempt(call: Awaitable[object]) -> CheckpointError | None:
    """Run a call that may be refused; return the refusal, or None."""
    try:
        await call
    except CheckpointError as error:
        return error
    return None


async def settled(call: Callable[[], Awaitable[object]]) -> CheckpointError | None:
    """Call again as long as the outcome is unknown, as the lock of a frozen process may make it; return the refusal."""
    refusal = await attempt(call())
    while isinstance(refusal, StoreUnavailableError):
        await asyncio.sleep(0.05)
        refusal = await attempt(call())
    return refusal


async def acknowledged(call: Awaitable[object], what: str) -> bool:
    """Return whether a call in an outage was acknowledged; nothing but StoreUnavailableError may come out of it."""
    try:
        await call
    except StoreUnavailableError:
        return False
    except Exception as error:
        raise Violation(f"{what} raised {error_line(error)}; the contract wants StoreUnavailableError") from error
    return True


async def together(*calls: Awaitable[T]) -> list[T]:
    """Run calls side by side and return their results in order.

    Unlike `asyncio.gather`, it leaves nothing behind: if one fails, the others are cancelled and have ended before
    its exception comes out, so nobody still uses a handle or reads a process while the check is torn down.
    """
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
