"""`stargraph respond`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stargraph.cli._options import (
    DEFAULT_CHECKPOINT,
    LATEST,
    CheckpointOption,
    JsonOption,
    KeysOption,
    LatestRunArgument,
)
from stargraph.cli._questions import question_lines
from stargraph.errors import CheckpointError

if TYPE_CHECKING:
    from stargraph.checkpoint.protocol import Checkpoint, JsonValue
    from stargraph.cli._store import StoreRef


def respond(
    value: Annotated[str, typer.Option("--value", metavar="JSON", help="The answer; text needs no quotes.")],
    run_id: LatestRunArgument = LATEST,
    interrupt: Annotated[
        str | None,
        typer.Option("--interrupt", metavar="ID", help="The id of the question; needed if several are open."),
    ] = None,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    encryption_keys: KeysOption = None,
    json: JsonOption = False,
) -> None:
    """Answer a question of the run RUN_ID.

    A process that executes the run continues with the answer at once; if none does, `stargraph resume` continues.
    An answer is taken once.
    """
    from stargraph.cli._errors import print_message
    from stargraph.cli._event_words import value_words
    from stargraph.cli._execution import run_async
    from stargraph.cli._output import print_json, print_lines
    from stargraph.cli._store import StoreRef

    ref = StoreRef(checkpoint, encryption_keys)
    answered, question, taken = run_async(_respond(ref, run_id, interrupt, value))
    if json:
        print_json({"run_id": answered.run_id, "interrupt": question, "step": answered.step, "status": answered.status})
    else:
        said = value_words(taken)
        print_lines([f"answered {question} of run {answered.run_id} at step {answered.step}: {said}"])
        if answered.status == "running" and answered.queue is None:
            resume = ref.command("resume", answered.run_id, "GRAPH")
            print_message(
                f"a process that executes run {answered.run_id} continues it now",
                f"if there is none, resume it: {resume}",
            )


async def _respond(ref: StoreRef, run_id: str, interrupt: str | None, text: str) -> tuple[Checkpoint, str, JsonValue]:
    from stargraph.cli._questions import first_that_fits, readings
    from stargraph.cli._run_ids import find_run_id
    from stargraph.cli._store import keyring, read_latest
    from stargraph.graph import respond as answer

    async with ref.opened("write") as store:
        run_id = await find_run_id(store, run_id)
        question = interrupt or _only_question(await read_latest(store, run_id))

        async def give(value: JsonValue) -> tuple[Checkpoint, str, JsonValue]:
            return await answer(store, run_id, question, value, keyring=keyring()), question, value

        return await first_that_fits(readings(text), give)


def _only_question(latest: Checkpoint) -> str:
    questions = latest.questions
    if len(questions) == 1:
        return questions[0].id
    if not questions:
        raise CheckpointError(
            f"run {latest.run_id!r} has no open question; it is {latest.status} at step {latest.step}",
            reason="no-such-question",
            run_id=latest.run_id,
        )
    listed = "\n".join(question_lines(questions))
    raise CheckpointError(
        f"run {latest.run_id!r} has {len(questions)} open questions:\n{listed}",
        reason="several-questions",
        hint="Name one: --interrupt ID",
        run_id=latest.run_id,
    )
