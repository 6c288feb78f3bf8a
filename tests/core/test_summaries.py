"""What a run looks like from outside."""

from __future__ import annotations

import pytest
from support.checkpoints import following, genesis, rich

from stargraph.checkpoint.driver import summaries_from_json, summary_json
from stargraph.checkpoint.protocol import ErrorInfo, RunPage, RunSummary
from stargraph.errors import CheckpointCorruptedError, NodeError


def test_it_says_what_the_latest_checkpoint_says() -> None:
    latest = rich()
    summary = RunSummary.from_checkpoint(latest)
    assert summary.model_dump() == {
        "run_id": latest.run_id,
        "graph_id": latest.graph_id,
        "graph_hash": latest.graph_hash,
        "runtime_hash": latest.runtime_hash,
        "started_at": latest.started_at,
        "updated_at": latest.timestamp,
        "last_step": 1,
        "status": "awaiting_input",
        "parent_run_id": "parent:1",
        "origin": "fork",
        "process": latest.process.model_dump() if latest.process else None,
        "error": latest.error.model_dump() if latest.error else None,
        "due_at": None,
        "queue": latest.queue.model_dump() if latest.queue else None,
        "metadata": {"team": "α", "": ""},
    }
    assert summary.last_step_at == summary.updated_at
    assert RunSummary.model_validate_json(summary.model_dump_json()) == summary
    assert RunSummary.model_validate(summary.model_dump()) == summary


def test_its_tags_are_its_own() -> None:
    latest = rich()
    RunSummary.from_checkpoint(latest).metadata["team"] = "other"
    latest.ensure_valid()


def test_a_page_round_trips() -> None:
    page = RunPage(items=(RunSummary.from_checkpoint(rich()),), next_cursor="c")
    assert RunPage.model_validate_json(page.model_dump_json()) == page


@pytest.mark.parametrize("status", ["running", "awaiting_input", "paused", "done"])
def test_a_run_that_did_not_fail_passes(status: str) -> None:
    summary = RunSummary.from_checkpoint(following(genesis(), status=status))
    assert summary.raise_for_status() is summary


@pytest.mark.parametrize(
    ("error", "message", "reason"),
    [
        (None, "run 'run-1' failed: no error was recorded", "run-failed"),
        (ErrorInfo(type="ValueError", message="no"), "run 'run-1' failed: ValueError: no", "run-failed"),
        (
            ErrorInfo(type="m.Slow", message="late", reason="timeout", node="fetch"),
            "run 'run-1' failed at node 'fetch': m.Slow: late",
            "timeout",
        ),
    ],
)
def test_a_failed_run_raises_its_error(error: ErrorInfo | None, message: str, reason: str) -> None:
    summary = RunSummary.from_checkpoint(following(genesis(), event="failed", status="failed", error=error))
    with pytest.raises(NodeError) as raised:
        summary.raise_for_status()
    assert str(raised.value) == message
    assert raised.value.reason == reason
    assert raised.value.run_id == "run-1"
    assert raised.value.node == (error.node if error else None)


def test_a_cancelled_run_raises() -> None:
    summary = RunSummary.from_checkpoint(following(genesis(), event="cancelled", status="cancelled"))
    with pytest.raises(NodeError, match="run 'run-1' was cancelled") as raised:
        summary.raise_for_status()
    assert raised.value.reason == "run-cancelled"


@pytest.mark.parametrize("damaged", [None, b"", b"{}", b"\xff", summary_json(genesis(run_id="other"))])
def test_a_damaged_summary_among_others_is_named(damaged: bytes | None) -> None:
    rows: list[tuple[str, bytes]] = [(run_id, summary_json(genesis(run_id=run_id))) for run_id in ("a", "b", "c")]
    assert [summary.run_id for summary in summaries_from_json(rows)] == ["a", "b", "c"]
    rows[1] = ("b", damaged)  # type: ignore[assignment]  # a table may hold NULL
    with pytest.raises(CheckpointCorruptedError, match="run 'b'"):
        summaries_from_json(rows)
