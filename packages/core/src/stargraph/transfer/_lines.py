"""The lines of an export: JSON Lines, which docs/formats.md specifies.

{"format": "stargraph-export", "version": 1, …}
{"run": {"head": {"run_id": …, "step": …, "digest": …, "status": …}, "first_step": …, "steps": …}}
{"checkpoint": {…}}                              as many as `steps` says
{"end": {"runs": …, "checkpoints": …, "sha256": …}}
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, TypeAlias

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stargraph.audit._anchor import Head
from stargraph.checkpoint.codec import DIGEST_FORM
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.checkpoint.values import EncodedValue, format_time, join_encoded
from stargraph.errors import CheckpointCorruptedError, CheckpointError, StargraphError, StoreVersionError

FORMAT: Final = "stargraph-export"
VERSION: Final = 1

MAX_LINE: Final = 512 * 1024 * 1024
"""How long a line may be, in bytes; the state of a checkpoint takes up to 64 MiB of it, and its update as much."""


class RunLine(BaseModel):
    """What an export says of a run before its checkpoints.

    Attributes:
        head: its last checkpoint.
        first_step: the lowest step in the file; above 0 if the run was pruned.
        steps: how many there are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: Head
    first_step: int = Field(ge=0)
    steps: int = Field(ge=1)


Line: TypeAlias = RunLine | Checkpoint
"""What a reader gets: a run, then its checkpoints."""


class LineWriter:
    """Writes the lines.

    Args:
        stream: where they go.

    Attributes:
        runs: how many runs were written.
        checkpoints: how many checkpoints were.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.runs = 0
        self.checkpoints = 0
        self._stream = stream
        self._hash = hashlib.sha256()

    def header(self) -> None:
        """Write the first line."""
        self._write({"format": FORMAT, "version": VERSION, "exported_at": format_time(datetime.now(UTC))})

    def run(self, run: RunLine) -> None:
        """Write what is said of a run."""
        self.runs += 1
        self._write({"run": run.model_dump()})

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint."""
        fields = {"form": DIGEST_FORM} | checkpoint.model_dump(mode="json", exclude={"state", "update"})
        fields["state"] = orjson.Fragment(checkpoint.state_json())
        update = checkpoint.encoded_update()
        fields["update"] = None if update is None else orjson.Fragment(join_encoded(update))
        self.checkpoints += 1
        self._write({"checkpoint": fields})

    def end(self) -> None:
        """Write the last line."""
        counts = {"runs": self.runs, "checkpoints": self.checkpoints, "sha256": self._hash.hexdigest()}
        self._write({"end": counts})
        self._stream.flush()

    def _write(self, line: dict[str, Any]) -> None:
        text = orjson.dumps(line) + b"\n"
        self._hash.update(text)
        self._stream.write(text)


class LineReader:
    """Reads and checks the lines: what it yields is whole and unchanged, but for what the last line still proves.

    Args:
        stream: where they come from.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._name = str(getattr(stream, "name", "the export"))
        self._number = 0
        self._hash = hashlib.sha256()

    def __iter__(self) -> Iterator[Line]:
        """Yield the runs and their checkpoints.

        Raises:
            StargraphError: the input is not an export, or was cut or edited; the message names the line.
        """
        self._header()
        runs = checkpoints = 0
        while True:
            before = self._hash.hexdigest()
            line = self._next()
            if line.keys() == {"end"}:
                totals = line["end"]
                if totals != {"runs": runs, "checkpoints": checkpoints, "sha256": before}:
                    raise self.refuse("the lines before it are not those that were written: the file was edited")
                if self._stream.readline(1):
                    self._number += 1
                    raise self.refuse("something follows the last line")
                return
            run = self._run(line)
            runs += 1
            yield run
            for checkpoint in self._checkpoints(run):
                checkpoints += 1
                yield checkpoint

    def refuse(self, complaint: str) -> StargraphError:
        """Return the error of the line that was read last.

        Args:
            complaint: what is wrong with it.
        """
        return StargraphError(
            f"{self._name}, line {self._number}: {complaint}",
            reason="invalid-export",
            hint="Export the runs again, or transfer the file again; importing runs twice changes nothing.",
        )

    def _header(self) -> None:
        line = self._next()
        if line.get("format") != FORMAT:
            raise self.refuse("this is not an export of Stargraph")
        version = line.get("version")
        if version != VERSION:
            raise StoreVersionError(
                f"{self._name}, line 1: the export has version {version!r}, and this software reads {VERSION}",
                reason="newer-format",
                hint="Upgrade stargraph-core here to the version that wrote the export.",
            )

    def _run(self, line: dict[str, Any]) -> RunLine:
        try:
            return RunLine.model_validate(line["run"])
        except (KeyError, ValidationError):
            raise self.refuse("a run or the end was expected here") from None

    def _checkpoints(self, run: RunLine) -> Iterator[Checkpoint]:
        before: Checkpoint | None = None
        for _ in range(run.steps):
            line = self._next()
            checkpoint = self._checkpoint(line)
            if checkpoint.run_id != run.head.run_id:
                raise self.refuse(f"a step of the run {checkpoint.run_id!r} is among those of {run.head.run_id!r}")
            lowest = run.first_step if before is None else before.step + 1
            if checkpoint.step < lowest or (before is None and checkpoint.step != lowest):
                raise self.refuse(f"step {lowest} was expected here, and not step {checkpoint.step}")
            if before is not None and checkpoint.step == lowest and checkpoint.previous_digest != before.digest:
                raise self.refuse(f"step {checkpoint.step} does not follow the step before it")
            before = checkpoint
            yield checkpoint
        if before is None or (before.step, before.digest) != (run.head.step, run.head.digest):
            raise self.refuse(f"this is not the last step of the run {run.head.run_id!r} that was exported")

    def _checkpoint(self, line: dict[str, Any]) -> Checkpoint:
        fields = line.get("checkpoint")
        if type(fields) is not dict:
            raise self.refuse("a checkpoint was expected here: lines are missing")
        form = fields.pop("form", None)
        if form != DIGEST_FORM:
            raise self._other_form(form)
        try:
            state, update = _encoded_values(fields.pop("state", None)), fields.pop("update", None)
            return Checkpoint.from_stored(fields, state, None if update is None else _encoded_values(update))
        except CheckpointCorruptedError:
            raise self.refuse("the checkpoint is not what its digest covers: the line was edited") from None
        except (ValueError, TypeError, CheckpointError) as error:
            raise self.refuse(f"this is not a checkpoint: {str(error).partition(chr(10))[0]}") from None

    def _other_form(self, form: object) -> StoreVersionError:
        where = f"{self._name}, line {self._number}"
        if form is None:
            return StoreVersionError(
                f"{where}: the export was written before the first release, and no release reads it",
                reason="older-format",
                hint="Nothing was imported from here on. Finish its runs with the version that wrote it.",
            )
        return StoreVersionError(
            f"{where}: the digest has form {form!r}, and this software reads {DIGEST_FORM}",
            reason="newer-format",
            hint="Upgrade stargraph-core here to the version that wrote the export.",
        )

    def _next(self) -> dict[str, Any]:
        self._number += 1
        text = self._stream.readline(MAX_LINE + 1)
        if len(text) > MAX_LINE:
            raise self.refuse(f"the line is longer than {MAX_LINE} bytes")
        if not text.endswith(b"\n"):
            raise self.refuse("the file was cut off here")
        self._hash.update(text)
        try:
            line = orjson.loads(text)
        except ValueError:
            raise self.refuse("this is not JSON") from None
        if type(line) is not dict:
            raise self.refuse("this is not a JSON object")
        return line


def _encoded_values(members: object) -> dict[str, EncodedValue]:
    if type(members) is not dict:
        raise ValueError("the state and the update are objects")
    return {key: EncodedValue.of_checked(value) for key, value in members.items()}
