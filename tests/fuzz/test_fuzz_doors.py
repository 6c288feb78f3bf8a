"""Anything may come in at any door. `make torture` goes through the same doors by coverage, and for longer."""

from __future__ import annotations

import resource

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stargraph_torture.fuzzing.doors import DOORS

pytestmark = pytest.mark.thorough

MEMORY_KILOBYTES = 300_000

PIECES = [
    b"",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xe2\x80\xa8",
    b"{",
    b"}",
    b"[" * 50,
    b"]" * 50,
    b"&a ",
    b"*a ",
    b"!!x ",
]
PIECES += [b"1e999", b"-1", b"9" * 30, b"NaN", b"null", b'"', b"'", b"\n", b"\r", b"\t", b": ", b"- ", b"{{"]


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Something that fits, cut, spliced and overwritten in some places."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 16)))
        piece = draw(st.sampled_from(PIECES) | st.binary(max_size=6) | st.just(data[stop : stop + 40]))
        data = data[:start] + piece + data[stop:]
    return data


@pytest.mark.parametrize(
    "examples", [pytest.param(60, id="short"), pytest.param(5_000, id="long", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", DOORS)
def test_anything_is_taken_or_refused_with_one_error(name: str, examples: int) -> None:
    door = DOORS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(max_examples=examples)
    @given(data=st.binary(max_size=300) | mutated(door.seeds))
    @example(data=b"")
    @example(data=b"[" * 100_000)
    @example(data=b'{"a":' * 50_000)
    @example(data=b"a: " * 50_000)
    @example(data=b"9" * 100_000)
    @example(data=b"0x" + b"f" * 100_000)
    @example(data=b"- " * 50_000)
    @example(data=b"&a [*a]")
    @example(data=b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n, n, n - 1, n - 1) for n in range(98, 123)))
    @example(data=b"\xef\xbb\xbf\xff\xfe")
    def enter(data: bytes) -> None:
        door.enter(data)

    enter()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_KILOBYTES
