"""The compression of bodies: Zstandard (RFC 8878) with a dictionary, never beyond what a body may hold."""

from __future__ import annotations

from functools import cached_property
from threading import local
from typing import Final

import zstandard

from stargraph.checkpoint.codec._dictionary import DICTIONARY
from stargraph.checkpoint.values import MAX_BYTES

MOST_BYTES: Final = 4 * MAX_BYTES
"""How long a body may be, in bytes; no record is inflated beyond it."""

_LEVEL: Final = 1
"""Higher ones take longer, and save a few per cent of prose or nothing."""
_QUICK_LEVEL: Final = -1
_QUICK: Final = 512
"""Up to this length of a body the quick level takes a third of the time, and makes it a few per cent longer."""
_WORTH_COMPRESSING: Final = 96
_FRAME_HEADER: Final = 18
"""Bytes of the longest header of a frame of zstd (RFC 8878, section 3.1.1.1)."""


def compress(body: bytes) -> bytes | None:
    """Return a body compressed, or None if that does not make it shorter."""
    if len(body) < _WORTH_COMPRESSING:
        return None
    compressor = _zstandard.quick_compressor if len(body) <= _QUICK else _zstandard.compressor
    compressed = compressor.compress(body)
    return compressed if len(compressed) < len(body) else None


def inflate(body: bytes) -> bytes:
    """Return what `compress` was given.

    Raises:
        ValueError: the body is not what `compress` returned, or too large.
        zstandard.ZstdError: likewise.
    """
    size = zstandard.frame_content_size(body)
    if size < 0:
        raise ValueError("its compressed body does not say its size")
    if size > MOST_BYTES:
        raise ValueError(f"its body of {size} bytes is too large")
    return _zstandard.decompressor.decompress(body, max_output_size=size, allow_extra_data=False)


def inflating(body: bytes) -> zstandard.ZstdDecompressionReader:
    """Return a reader of what `compress` was given; of a body that was cut, it reads what is there."""
    return _zstandard.decompressor.stream_reader(body)


def inflated_size(body: bytes | memoryview) -> int:
    """Return what a compressed body says of its size, in bytes; -1 if it says nothing.

    Raises:
        zstandard.ZstdError: it is no compressed body.
    """
    return zstandard.frame_content_size(body[:_FRAME_HEADER])


class _Zstandard(local):
    """The contexts of one thread, each made when it is needed: they serve one at a time."""

    @cached_property
    def compressor(self) -> zstandard.ZstdCompressor:
        return _compressor(_LEVEL)

    @cached_property
    def quick_compressor(self) -> zstandard.ZstdCompressor:
        return _compressor(_QUICK_LEVEL)

    @cached_property
    def decompressor(self) -> zstandard.ZstdDecompressor:
        return zstandard.ZstdDecompressor(dict_data=_dictionary())


def _compressor(level: int) -> zstandard.ZstdCompressor:
    dictionary = _dictionary()
    dictionary.precompute_compress(level=level)
    return zstandard.ZstdCompressor(level=level, dict_data=dictionary)


def _dictionary() -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(DICTIONARY, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


_zstandard: Final = _Zstandard()
