"""The types of answers, also of those to questions that child runs ask through their parent."""

from __future__ import annotations

from typing import Any

from stargraph.checkpoint.protocol import Interrupt
from stargraph.engine._plan import Plan
from stargraph.engine._questions import Question


def answer_type(plan: Plan, question: Interrupt) -> Any:
    """Return the type of the field that takes an answer; None if the answer may be any JSON.

    Args:
        plan: the graph of the run.
        question: an open question of it.
    """
    into = question.into
    if question.child_run_id is not None:
        # The record of a parent names no field of its child's state. But the id of the question is made of the tasks
        # that lead to it, whose ids begin with their nodes, and of a digest over what it says and its field.
        for task in question.id.split("/")[:-2]:
            child = plan.children.get(task.rpartition("-")[0])
            if child is None:  # asked by another version of the graph
                return None
            plan = child
        said = (Question(question.prompt, question.payload, into=each) for each in sorted(plan.state.fields or ()))
        into = next((each.into for each in said if each.is_said_by(question.id)), None)
    field = None if into is None else plan.state.field(into)
    return None if field is None else field.annotation
