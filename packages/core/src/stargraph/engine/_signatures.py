"""How a node's function is called: which of its parameters take the state and the context."""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any, Final, Literal

from stargraph.engine._context import Context
from stargraph.ir import signature_of

_Given = Literal["state", "context"]

CONTEXT_NAME: Final = "ctx"
"""A parameter of this name takes the context."""

_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_TYPE_ALIAS: Final[Any] = getattr(typing, "TypeAliasType", ())
_OPEN: Final = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class SignatureFault(Exception):
    """Why a callable cannot be a node.

    Args:
        message: what is wrong.
        hint: what to do about it; by default, which parameters a node takes.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint or (
            f"A node takes (state) or (state, {CONTEXT_NAME}); a context of another name is annotated as Context,"
            " and every other parameter needs a default."
        )


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a node's function is called with.

    Attributes:
        positional: its positional arguments, in order.
        named: its arguments by name.
    """

    positional: tuple[_Given, ...]
    named: Mapping[str, _Given]

    def bind(self, function: Callable[..., Any], state: object, context: Context) -> Callable[[], Any]:
        """Return the call of a function with these arguments.

        Args:
            function: the function that they were made for.
            state: what the node is given.
            context: the context of the node.
        """
        given: dict[_Given, object] = {"state": state, "context": context}
        positional = [given[what] for what in self.positional]
        if not self.named:
            return functools.partial(function, *positional)
        return functools.partial(function, *positional, **{name: given[what] for name, what in self.named.items()})


def arguments_of(function: Callable[..., Any]) -> Arguments:
    """Return the arguments for a node's function.

    The context goes to every parameter that is called `ctx` or annotated as a `Context`, and the state to the
    first of the others. A wrapper that passes on whatever it is given, and names what it wraps (`functools.wraps`),
    takes what the wrapped function takes.

    Args:
        function: what is called for the node.

    Raises:
        SignatureFault: it needs more than that, or takes no state.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise SignatureFault(
            "is a generator", hint="A node returns its update. To send progress while it runs, call ctx.emit(value)."
        )
    parameters = _parameters(function)
    contexts = _contexts(function, parameters)
    arguments = _explicit(parameters, contexts)
    return arguments if contexts else _passed_on(function, parameters, arguments)


def _explicit(parameters: Mapping[str, Parameter], contexts: set[str]) -> Arguments:
    positional: list[_Given] = []
    named: dict[str, _Given] = {}
    is_state_given = has_gap = False
    for name, parameter in parameters.items():
        is_positional = parameter.kind in _POSITIONAL and not has_gap
        if name in contexts:
            if is_positional:
                positional.append("context")
            elif parameter.kind is Parameter.POSITIONAL_ONLY:
                raise SignatureFault(f"takes the context as {name!r} after a positional parameter with a default")
            else:
                named[name] = "context"
        elif not is_state_given and parameter.kind in (*_POSITIONAL, Parameter.VAR_POSITIONAL):
            is_state_given = True
            positional.append("state")
        elif not is_state_given and parameter.kind is Parameter.KEYWORD_ONLY and name == "state":
            is_state_given = True
            named[name] = "state"
        elif parameter.kind in _OPEN:
            continue
        elif parameter.default is Parameter.empty:
            raise SignatureFault(f"needs a value for {name!r}, which is neither the state nor the context")
        else:
            has_gap = has_gap or parameter.kind in _POSITIONAL
    if not is_state_given:
        raise SignatureFault("takes no state")
    return Arguments(tuple(positional), named)


def _passed_on(wrapper: Callable[..., Any], parameters: Mapping[str, Parameter], arguments: Arguments) -> Arguments:
    """Add the context to the arguments of a wrapper, if what it wraps takes it and the wrapper passes it on."""
    kinds = {parameter.kind for parameter in parameters.values()} & set(_OPEN)
    inner = _wrapped(wrapper)
    while kinds and inner is not None:
        parameters = _parameters(inner)
        contexts = _contexts(inner, parameters)
        if not contexts:
            kinds &= {parameter.kind for parameter in parameters.values()}
            inner = _wrapped(inner)
            continue
        first, *others = sorted(contexts, key=list(parameters).index)
        if Parameter.VAR_KEYWORD in kinds and parameters[first].kind is not Parameter.POSITIONAL_ONLY:
            return Arguments(arguments.positional, {**arguments.named, first: "context"})
        position = list(parameters).index(first)
        if Parameter.VAR_POSITIONAL in kinds and position < 2 and not others:
            return Arguments(("state", "context") if position else ("context", "state"), arguments.named)
        if parameters[first].default is Parameter.empty:
            raise SignatureFault(f"wraps a function that needs the context as {first!r}, and does not pass it on")
        break
    return arguments


def _parameters(function: Callable[..., Any]) -> dict[str, Parameter]:
    try:
        signature = signature_of(function, follow_wrapped=False)
    except (TypeError, ValueError):
        # Written in C: whatever it is given is passed on.
        return {
            "args": Parameter("args", Parameter.VAR_POSITIONAL),
            "kwargs": Parameter("kwargs", Parameter.VAR_KEYWORD),
        }
    return dict(signature.parameters)


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return what a wrapper wraps, bound as the wrapper is, or None if it wraps nothing that is known."""
    if isinstance(function, functools.partial):
        inner = _wrapped(function.func)
        return None if inner is None else functools.partial(inner, *function.args, **function.keywords)
    if isinstance(function, types.MethodType):
        inner = getattr(function.__func__, "__wrapped__", None)
        return types.MethodType(inner, function.__self__) if callable(inner) else None
    inner = getattr(function, "__wrapped__", None)
    return inner if callable(inner) else None


def _contexts(function: Callable[..., Any], parameters: Mapping[str, Parameter]) -> set[str]:
    """Return the names of the parameters that take the context, but for those that a partial gives a value."""
    bound: set[str] = set()
    layer = function
    while isinstance(layer, functools.partial):
        bound |= set(layer.keywords)
        layer = layer.func
    return {name for name, parameter in parameters.items() if name not in bound and _takes_context(function, parameter)}


def _takes_context(function: Callable[..., Any], parameter: Parameter) -> bool:
    if parameter.kind in _OPEN:
        return False
    return parameter.name == CONTEXT_NAME or _is_context(function, parameter.annotation)


def _is_context(function: Callable[..., Any], annotation: Any) -> bool:
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        resolved = _resolved(function, annotation)
        if resolved is None:
            # It names what is imported for type checkers alone.
            return re.search(r"(?<!\w)(Node)?Context(?!\w)", annotation) is not None
        annotation = resolved
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _is_context(function, annotation.__origin__)
    if isinstance(annotation, _TYPE_ALIAS):
        return _is_context(function, annotation.__value__)
    if origin in (typing.Union, types.UnionType):
        return any(_is_context(function, member) for member in typing.get_args(annotation))
    return isinstance(annotation, type) and issubclass(annotation, Context)


def _resolved(function: Callable[..., Any], annotation: str) -> Any:
    """Return what a text stands for in the module of a function, or None if it stands for nothing there."""
    while isinstance(function, (functools.partial, types.MethodType)):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    names = getattr(function, "__globals__", {})
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=dict(names), localns={}, include_extras=True)["it"]
    except Exception:  # noqa: BLE001  # an annotation is code, and may raise whatever it likes
        return None
