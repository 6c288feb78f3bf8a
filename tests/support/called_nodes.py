"""Nodes in all the shapes that a callable can have; each returns how it was called as `x`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Optional

from stargraph.graph import Context as Told

if TYPE_CHECKING:
    from stargraph.graph import Context

Alias = Told


def _seen(context: object) -> dict[str, str]:
    return {"x": context.node if isinstance(context, Told) else f"no context, but {context!r}"}


def passing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Is what tracing decorators are: passes everything on, and names what it wraps."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def unnamed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Passes everything on, and does not name what it wraps."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def injecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a second argument by itself."""

    @functools.wraps(function)
    def wrapper(state: Any) -> Any:
        return function(state, "injected")

    return wrapper


def by_name(state: Any, ctx: Any) -> Any:
    return _seen(ctx)


def by_name_alone(state: Any, *, ctx: Any) -> Any:
    return _seen(ctx)


def by_name_with_default(state: Any, *, ctx: Any = None) -> Any:
    return _seen(ctx)


def by_position(state: Any, ctx: Any, /) -> Any:
    return _seen(ctx)


def before_the_state(ctx: Any, state: Any) -> Any:
    return _seen(ctx)


def behind_a_default(state: Any, limit: int = 10, ctx: Any = None) -> Any:
    assert limit == 10
    return _seen(ctx)


def by_text(state: Any, expected: Context) -> Any:
    return _seen(expected)


def by_alias(state: Any, expected: Alias) -> Any:
    return _seen(expected)


def by_optional(state: Any, expected: Optional[Told] = None) -> Any:  # noqa: UP045  # the spelling under test
    return _seen(expected)


def by_union_of_texts(state: Any, expected: Context | None = None) -> Any:
    return _seen(expected)


def by_annotated(state: Any, expected: Annotated[Told, "why"]) -> Any:
    return _seen(expected)


@passing
async def wrapped_async(state: Any, ctx: Any) -> Any:
    await asyncio.sleep(0)
    return _seen(ctx)


@passing
@passing
def wrapped_twice(state: Any, expected: Context) -> Any:
    return _seen(expected)


class WithMethods:
    """Is a node in five ways."""

    async def __call__(self, state: Any, ctx: Any) -> Any:
        return _seen(ctx)

    @passing
    async def wrapped(self, state: Any, ctx: Any) -> Any:
        return _seen(ctx)

    def plain(self, state: Any, *, expected: Context) -> Any:
        return _seen(expected)

    @classmethod
    async def of_class(cls, state: Any, ctx: Any) -> Any:
        return _seen(ctx)

    @staticmethod
    def of_none(state: Any, ctx: Any) -> Any:
        return _seen(ctx)


instance = WithMethods()
wrapped_method = instance.wrapped
bound_method = instance.plain


class Executes:
    """Is made again, and executed."""

    @passing
    async def execute(self, state: Any, ctx: Any) -> Any:
        return _seen(ctx)


async def _with_more(state: Any, ctx: Any, more: int) -> Any:
    return {"x": f"{_seen(ctx)['x']} {more}"}


partial = functools.partial(_with_more, more=1)
partial_of_wrapper = functools.partial(passing(_with_more), more=1)


def _first(more: int, state: Any, ctx: Any) -> Any:
    return _seen(ctx)


partial_by_position = functools.partial(_first, 1)
cached = functools.lru_cache(maxsize=None)(lambda state: {"x": "cached"})  # the state is no key


@functools.singledispatch
def dispatched(state: Any, ctx: Any) -> Any:
    return _seen(ctx)


def returns_awaitable(state: Any) -> Awaitable[Any]:
    return _with_more(state, None, 2)


CONTEXTS = [
    "by_name",
    "by_name_alone",
    "by_name_with_default",
    "by_position",
    "before_the_state",
    "behind_a_default",
    "by_text",
    "by_alias",
    "by_optional",
    "by_union_of_texts",
    "by_annotated",
    "wrapped_async",
    "wrapped_twice",
    "WithMethods",
    "instance",
    "wrapped_method",
    "bound_method",
    "WithMethods.of_class",
    "WithMethods.of_none",
    "Executes",
    "partial_by_position",
    "dispatched",
]
"""Those that take the context."""


def other_default(state: Any, verbose: bool = False) -> Any:  # the shape under test
    return {"x": str(verbose)}


def other_union(state: Any, other: int | str = 3) -> Any:
    return {"x": str(other)}


@injecting
def injected(state: Any, ctx: Any) -> Any:
    return {"x": str(ctx)}


@unnamed
def behind_unnamed(state: Any) -> Any:
    return {"x": "state alone"}


given_by_partial = functools.partial(by_name, ctx="mine")


def anything(*args: Any, **kwargs: Any) -> Any:
    return {"x": f"{len(args)} {sorted(kwargs)}"}


WITHOUT_CONTEXT = {
    "other_default": "False",
    "other_union": "3",
    "injected": "injected",
    "behind_unnamed": "state alone",
    "given_by_partial": "no context, but 'mine'",
    "anything": "1 []",
    "returns_awaitable": "no context, but None 2",
    "partial": "a 1",
    "partial_of_wrapper": "a 1",
}
"""What the others say."""


def no_arguments() -> Any:
    return None


def context_alone(ctx: Any) -> Any:
    return None


def another_name(state: Any, context: Any) -> Any:
    return None


def needs_more(state: Any, ctx: Any, more: Any) -> Any:
    return None


def needs_name(state: Any, *, database: Any) -> Any:
    return None


def generator(state: Any) -> Iterator[Any]:
    yield {}


async def async_generator(state: Any) -> AsyncIterator[Any]:
    yield {}


def behind_the_gap(state: Any, limit: int = 1, ctx: Any = None, /) -> Any:
    return None


@passing
def wrapped_generator(state: Any) -> Iterator[Any]:
    yield {}


class WithArguments:
    """Cannot be made."""

    def __init__(self, n: int) -> None:
        self.n = n

    def execute(self, state: Any) -> Any:
        return None


REFUSED = [
    "no_arguments",
    "context_alone",
    "another_name",
    "needs_more",
    "needs_name",
    "generator",
    "async_generator",
    "behind_the_gap",
    "WithArguments",
    "CONTEXTS",
]
"""What cannot be a node."""
