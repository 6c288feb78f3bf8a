"""What the core knows of pydantic's inside, which nobody has promised; and how late its schemas are built."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

from pydantic import BaseModel, ConfigDict, PrivateAttr
from support.checkpoints import following, genesis, rich

from stargraph.checkpoint.codec import encode
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.protocol._pydantic import assemble, private_attributes


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    number: int = 1
    _note: str | None = PrivateAttr(default=None)


def test_a_model_has_the_attributes_that_are_set() -> None:
    expected = {"__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"}
    assert set(BaseModel.__slots__) == expected, "pydantic keeps something else in a model: see protocol/_pydantic.py"


def test_an_assembled_model_is_like_a_validated_one() -> None:
    validated = Model(name="a", number=2)
    assembled = assemble(Model, {"name": "a", "number": 2}, {"_note": None})
    assert assembled == validated
    assert repr(assembled) == repr(validated)
    assert assembled.model_fields_set == validated.model_fields_set
    assert assembled.model_dump() == validated.model_dump()
    assert assembled.model_dump_json() == validated.model_dump_json()
    assert assembled.__pydantic_extra__ == validated.__pydantic_extra__
    for duplicate in (copy.copy(assembled), copy.deepcopy(assembled), pickle.loads(pickle.dumps(assembled))):
        assert duplicate == validated
        assert private_attributes(duplicate) == {"_note": None}
    assert assembled.model_copy(update={"number": 3}).number == 3


def test_private_attributes_are_read_where_there_are_any() -> None:
    assert private_attributes(Model(name="a")) == {"_note": None}
    assert private_attributes(Model.model_construct(name="a")) == {"_note": None}
    assert private_attributes(Model.__new__(Model)) == {}


def test_a_checkpoint_that_was_made_is_like_one_that_was_validated() -> None:
    for made in (genesis(), following(genesis()), rich()):
        validated = Checkpoint.model_validate(made.model_dump())
        assert list(made.__dict__) == list(validated.__dict__) == list(Checkpoint.model_fields)
        assert made.model_dump() == validated.model_dump()
        assert made.model_dump_json() == validated.model_dump_json()
        assert set(private_attributes(made)) == set(private_attributes(validated))
        assert encode(made) == encode(validated)


def test_a_process_that_reads_and_writes_plain_checkpoints_builds_no_schema() -> None:
    # Building those of a checkpoint takes longer than to open a store and read from it.
    record = encode(following(genesis(state={"n": 1}, metadata={"team": "a"}), last_node="a", task_id="t"))
    source = f"""
from datetime import UTC, datetime
from stargraph.checkpoint.codec import decode, encode
from stargraph.checkpoint.driver import summary_json
from stargraph.checkpoint.protocol import Checkpoint, Task
from stargraph.checkpoint.protocol._draft import CheckpointDraft, StoredFields
read = decode(bytes.fromhex({record.hex()!r}), run_id="run-1", step=1)
written = read.next(
    event="completed", executor_id="0" * 32, timestamp=datetime.now(UTC), changes={{"n": 2}},
    frontier=(Task.model_construct(id="t", node="a", since_step=2, index=None, rule=None, calls=()),),
)
summary_json(decode(encode(written), run_id="run-1", step=2))
built = [model.__name__ for model in (Checkpoint, CheckpointDraft, StoredFields) if model.__pydantic_complete__]
assert not built, built
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
