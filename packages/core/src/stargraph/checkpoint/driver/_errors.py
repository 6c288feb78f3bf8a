"""The errors of the contract that no rule of an append raises, in the same words for every store."""

from __future__ import annotations

from stargraph.errors import CheckpointCorruptedError, CheckpointError, StoreUnavailableError, StoreVersionError


def not_bootstrapped_error() -> CheckpointError:
    """Return the error of a method that was called before `bootstrap`."""
    return CheckpointError(
        "the checkpointer is not ready: bootstrap() was not called",
        reason="not-bootstrapped",
        hint="Call `await checkpointer.bootstrap()` once at start-up; it is idempotent.",
    )


def closed_error() -> CheckpointError:
    """Return the error of a method that was called after `close`."""
    return CheckpointError(
        "the checkpointer is closed",
        reason="closed",
        hint="Call `await checkpointer.bootstrap()` to open it again.",
    )


def read_only_error(what: str) -> CheckpointError:
    """Return the error of a change that a read-only handle was asked for.

    Args:
        what: the method that was called, as in `write`.
    """
    return CheckpointError(
        f"{what}: the checkpointer is read-only",
        reason="read-only",
        hint="Open the store without read_only to change it.",
    )


def missing_step_error(
    run_id: str,
    step: int,
    *,
    hint: str = "Restore the store from a backup; `stargraph verify` says what else is damaged.",
) -> CheckpointCorruptedError:
    """Return the error of a step between a run's floor and its latest step that is not stored.

    Args:
        hint: what to do in this kind of store.
    """
    return CheckpointCorruptedError(
        f"run {run_id!r}, step {step}: the checkpoint is missing, although it was written and was not pruned",
        reason="missing-step",
        hint=hint,
        run_id=run_id,
        step=step,
    )


def forked_error() -> StoreUnavailableError:
    """Return the error of a handle that is used in a child of the process that opened it."""
    return StoreUnavailableError(
        "the checkpointer was opened before this process was forked, and connections do not survive that",
        reason="forked",
        hint="Make a new checkpointer in the child process, and call its bootstrap().",
    )


def no_store_error(store: str) -> StoreUnavailableError:
    """Return the error of a store that does not exist, and that a read-only handle does not make.

    Args:
        store: its path or URL, without secrets.
    """
    return StoreUnavailableError(
        f"{store}: there is no store",
        reason="no-store",
        hint="Check the path or URL, or open it without read_only to create the store.",
    )


def before_release_error(store: str) -> StoreVersionError:
    """Return the error of a store that was written before the first release: its formats had other numbers.

    Args:
        store: its path or URL, without secrets.
    """
    return StoreVersionError(
        f"{store}: the store was written before the first release, and no release reads it",
        reason="older-format",
        hint="Nothing was changed. Finish its runs with the version that wrote it, and open a new store here.",
    )


def run_deleted_error(run_id: str, step: int) -> CheckpointError:
    """Return the error of a write to a run that was deleted.

    Args:
        step: the step that was to be written.
    """
    return CheckpointError(
        f"run {run_id!r}, step {step}: the run was deleted",
        reason="run-deleted",
        hint="A deleted run takes no further step; start a new one under another id.",
        run_id=run_id,
        step=step,
    )
