"""The literals of a body, and the scripts that take them, as the line of a record holds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stargraph.checkpoint.codec._edit_script import EditScript


def write_script(script: EditScript, literals: list[bytes]) -> int | list[int]:
    """Return a script as the line holds it, its literals added to those of the record."""
    if len(script) == 1 and isinstance(script[0], bytes):
        literals.append(script[0])
        return len(script[0])
    spec: list[int] = []
    for instruction in script:
        if isinstance(instruction, bytes):
            literals.append(instruction)
            spec.append(-len(instruction))
        else:
            spec += instruction
    return spec


class LiteralReader:
    """The literals of a body, taken one after the other."""

    def __init__(self, body: bytes, start: int) -> None:
        self._body = body
        self._position = start

    def scripts(self, specs: object) -> dict[str, EditScript]:
        """Return the scripts that a part of the line holds, by name."""
        scripts: dict[str, EditScript] = {}
        body = self._body
        for name, spec in as_object(specs).items():
            if type(spec) is int:  # the whole text, as `take` returns it: most are told so
                start = self._position
                self._position = end = start + spec
                if spec < 0 or end > len(body):
                    raise ValueError("it ends too early")
                scripts[name] = [body[start:end]]
            else:
                scripts[name] = self._script(spec)
        return scripts

    def _script(self, spec: object) -> EditScript:
        if type(spec) is not list:
            raise ValueError("a script is neither a number nor a list")
        script: EditScript = []
        numbers: Iterator[object] = iter(spec)
        for number in numbers:
            if type(number) is not int:
                raise ValueError("a script holds what is not a number")
            if number < 0:
                script.append(self.take(-number))
                continue
            length = next(numbers, None)
            if type(length) is not int:
                raise ValueError("a script copies without a length")
            script.append((number, length))
        return script

    def end(self) -> None:
        """Refuse literals that nothing has taken."""
        if self._position != len(self._body):
            raise ValueError("it holds more than its scripts use")

    def taken(self, start: int) -> bytes:
        """Return what was taken from a position in the body on."""
        return self._body[start : self._position]

    def take(self, length: int) -> bytes:
        """Return the next literal."""
        end = self._position + length
        if length < 0 or end > len(self._body):
            raise ValueError("it ends too early")
        text = self._body[self._position : end]
        self._position = end
        return text


def as_object(value: object) -> dict[str, Any]:
    """Return a JSON object as what it is.

    Raises:
        ValueError: it is something else.
    """
    if type(value) is not dict:
        raise ValueError("it is not an object")
    return value
