"""Small records that would become large: each must be refused before it fills the memory.

Run as a process, it limits its memory, opens every bomb, and prints the names of those that were refused.
"""

from __future__ import annotations

import functools
import json
import resource
from collections.abc import Callable
from typing import Final
from zlib import crc32

import zstandard
from support.checkpoints import genesis

from stargraph.checkpoint.codec import Codec, encode
from stargraph.checkpoint.codec._fields import BASE_CHECK_BYTES
from stargraph.checkpoint.codec._header import COMPRESSED, write_header
from stargraph.checkpoint.protocol import Checkpoint
from stargraph.errors import CheckpointCorruptedError

MEMORY_BYTES: Final = 1536 * 1024**2
"""What the process may use: a body may inflate to 256 MiB, and is then looked at."""

_TEXT: Final = 2**20


def _record(body: bytes, *, compressed: bool = False) -> bytes:
    """A keyframe with a body."""
    return write_header(COMPRESSED if compressed else 0, 0, ()) + body


def _delta(**index: object) -> bytes:
    """A record that is decoded from the step before it; its body has no literals of its own."""
    return write_header(0, 1, (0,)) + _body(json.dumps(index).encode(), bytes.fromhex(_before().digest))


def _body(line: bytes, base_digest: bytes = b"") -> bytes:
    """A line of JSON, and the literals that come before those of its scripts, with a check that fits."""
    base_check = base_digest[:BASE_CHECK_BYTES]
    return line + b"\n" + crc32(line + base_check).to_bytes(4, "big") + base_check


@functools.cache
def _before() -> Checkpoint:
    return genesis(run_id="r", state={"a": "x" * _TEXT})


def _deflated(size: int, *, sized: bool = True) -> bytes:
    compressor = zstandard.ZstdCompressor(level=19, write_content_size=sized).compressobj(size=size if sized else -1)
    block = bytes(1024**2)
    parts = [compressor.compress(block[: min(len(block), size - done)]) for done in range(0, size, len(block))]
    return b"".join([*parts, compressor.flush()])


def _lying() -> bytes:
    """A frame of 200 MB whose header says 100 bytes."""
    honest = _deflated(200 * 1024**2)
    header_length = zstandard.frame_header_size(honest)
    small = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(100))
    return small[: zstandard.frame_header_size(small)] + honest[header_length:]


def _scripts(**index: object) -> bytes:
    return _body(json.dumps(index).encode())


BOMBS: Final[dict[str, Callable[[], bytes]]] = {
    "a terabyte by its header": lambda: _record(
        # magic, a descriptor with an eight-byte content size, a window, and the size
        b"\x28\xb5\x2f\xfd\xc0\x58" + (10**12).to_bytes(8, "little") + b"\x01\x00\x00",
        compressed=True,
    ),
    "a gigabyte of zeros": lambda: _record(_deflated(1024**3), compressed=True),
    "zeros up to the limit": lambda: _record(_deflated(256 * 1024**2), compressed=True),
    "zeros of a size that is not stated": lambda: _record(_deflated(200 * 1024**2, sized=False), compressed=True),
    "a header that lies": lambda: _record(_lying(), compressed=True),
    "frames one behind the other": lambda: _record(_deflated(1024**2) * 200, compressed=True),
    "a literal that is longer than the record": lambda: _record(_scripts(f={}, s={"a": 2**62})),
    "a negative literal": lambda: _record(_scripts(f={}, s={"a": [-(2**62)]})),
    "copies of what is not there": lambda: _record(_scripts(f={}, s={"a": [0, 2**40] * 1000})),
    "copies of a text again and again": lambda: _delta(f={}, s={"a": [0, _TEXT] * 2_000}),
    "deep JSON": lambda: _record(_body(b'{"s":' + b"[" * 10_000_000)),
    "very many members": lambda: _record(
        _body(b'{"f":{},"s":{' + b",".join(b'"%d":0' % n for n in range(300_000)) + b"}}")
    ),
}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    before = encode(_before())
    for name, bomb in BOMBS.items():
        record = bomb()
        step = 1 if record[2] else 0
        try:
            Codec().decode({0: before} | {step: record}, run_id="r", step=step)
        except CheckpointCorruptedError:
            print(name)


if __name__ == "__main__":
    main()
