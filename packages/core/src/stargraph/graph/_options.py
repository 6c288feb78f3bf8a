"""How a run is executed: what every way to start or resume one takes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

from stargraph.engine import WATCH_SECONDS, Durability, Hooks, Middleware, check_middleware
from stargraph.runtime._given import check_flags


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is executed; `Graph.start` says what each option means.

    Raises:
        TypeError: `middleware` is no list of middleware, `executor` is not an executor, or `record_attempts` is neither
            True nor False.
        ValueError: there is no such durability, or `watch` is no number of seconds.
    """

    durability: Durability = "sync"
    executor: Executor | None = None
    watch: float = WATCH_SECONDS
    record_attempts: bool = False
    middleware: Sequence[Middleware] = ()

    def __post_init__(self) -> None:
        check_middleware(self.middleware)
        check_flags(record_attempts=self.record_attempts)
        if self.executor is not None and not isinstance(self.executor, Executor):
            raise TypeError(f"executor is {self.executor!r:.80}: pass an instance of concurrent.futures.Executor")
        if self.durability not in get_args(Durability):
            raise ValueError(f"durability is {self.durability!r}: use one of {', '.join(get_args(Durability))}")
        if isinstance(self.watch, bool) or not isinstance(self.watch, (int, float)) or not self.watch >= 0:
            raise ValueError(f"watch is {self.watch!r:.80}: give seconds, or 0 to look only when a step is written")

    @cached_property
    def hooks(self) -> Hooks:
        """The middleware, as executors use it."""
        return Hooks(self.middleware)
