"""The graph's definition as data: what a YAML file, a JSON file or Python code says."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_validator,
    model_serializer,
)

IR_VERSION: Final = "1.0.0"
"""The version of the definition's form."""

BUILTIN_KINDS: Final = ("echo", "halt", "interrupt", "subgraph", "wait")
"""The kinds of nodes that need no user-defined code."""

BUILTIN_REDUCERS: Final = ("replace", "append", "merge", "add")
"""The reducers that need no user-defined code."""

CALLABLE_PATTERN: Final = r"\w[\w-]*(\.\w[\w-]*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
"""The form of `package.module:name`; the name of a module is that of a file, as in `01-intro`."""

Id: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,99}$")]
FieldName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}$")]
Seconds: TypeAlias = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
Delay: TypeAlias = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, Field(ge=1, strict=True)]


def is_callable_path(text: str) -> bool:
    """Return whether a text has the form `package.module:name`."""
    return re.fullmatch(CALLABLE_PATTERN, text) is not None


class _Spec(BaseModel):
    # Where the file has another word, `alias` would make type checkers demand it in Python, even `if=`.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, populate_by_name=True)


class FieldSpec(_Spec):
    """One field of the state.

    Attributes:
        type: its type, as in `str`, `list[str]`, `int | None`, `dict[str, float]`, `Literal["a", "b"]`, `any`.
        default: its value if none is given; a field without one must be given at the start.
        reducer: `reduce` in the file: how an update reaches it: `replace`, `append`, `merge`, `add` or
            `module:callable`.
        description: for people.
    """

    type: str
    default: Any = None
    reducer: str = Field(default="replace", validation_alias="reduce", serialization_alias="reduce")
    description: str | None = None

    @model_serializer(mode="wrap")
    def _without_absent_default(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = plain(self)
        if self.required:
            # a dumped `default: null` would read as a default
            dumped.pop("default", None)
        return dumped

    @property
    def required(self) -> bool:
        """Whether a run must be given a value for it."""
        return "default" not in self.model_fields_set


class RetrySpec(_Spec):
    """How often a node is tried.

    Attributes:
        attempts: how often at most, the first attempt included.
        initial_delay: seconds before the second attempt; doubled before each further one, with jitter.
        max_delay: seconds that no wait exceeds.
        on: the exceptions that are worth another attempt: builtin names or `package.module:Class`.
    """

    attempts: Annotated[Count, Field(le=1000)] = 3
    initial_delay: Delay = 0.5
    max_delay: Delay = 30.0
    on: tuple[str, ...] = ("Exception",)


class NodeSpec(_Spec):
    """One node of the graph.

    Attributes:
        id: its name.
        kind: `package.module:callable`, or `echo`, `halt`, `interrupt`, `subgraph`, `wait`.
        retry: how often it is tried; once if None.
        timeout: seconds that one attempt may take; None for no limit.
        isolation: `process` runs each attempt in a process of its own, which the timeout kills; otherwise the executor
            of the run says where a sync node runs.
        max_overrun: seconds that a further attempt waits for the thread of one that timed out, which nothing can stop;
            30 if None.
        prompt: of an interrupt: the question, with fields of the state in braces.
        into: of an interrupt: the field that takes the answer.
        graph: of a subgraph: the file of the child, relative to this one.
        inputs: of a subgraph: the child's fields, as CEL over `state`.
        outputs: of a subgraph: our fields, as CEL over the child's final `state`.
        reason: of a halt: why, for people.
        seconds: of a wait: how long.
        until: of a wait: until when, as ISO 8601 with an offset; fields of the state in braces.
        description: for people.
    """

    id: Id
    kind: str
    retry: RetrySpec | None = None
    timeout: Seconds | None = None
    isolation: Literal["thread", "process"] | None = None
    max_overrun: Delay | None = None
    prompt: str | None = None
    into: FieldName | None = None
    graph: str | None = None
    inputs: dict[FieldName, str] | None = None
    outputs: dict[FieldName, str] | None = None
    reason: str | None = None
    seconds: Delay | None = None
    until: str | None = None
    description: str | None = None


class WhenSpec(_Spec):
    """When a rule applies.

    Attributes:
        node: the node that has just completed.
        condition: `if` in the file: CEL over `state` and `node`; without it the rule always applies.
    """

    node: Id
    condition: str | None = Field(default=None, validation_alias="if", serialization_alias="if")


class Goto(_Spec):
    """Go on at a node.

    Attributes:
        kind: always `goto`.
        target: the id of the node.
    """

    kind: Literal["goto"] = "goto"
    target: Id


class Halt(_Spec):
    """End the run as done.

    Attributes:
        kind: always `halt`.
        reason: why, for people.
    """

    kind: Literal["halt"] = "halt"
    reason: str | None = None


class Parallel(_Spec):
    """Run nodes side by side.

    Attributes:
        kind: always `parallel`.
        targets: the ids of the nodes, each of them one branch.
        join: the id of the node that follows when all have completed.
    """

    kind: Literal["parallel"] = "parallel"
    targets: Annotated[tuple[Id, ...], Field(min_length=1)]
    join: Id


class Map(_Spec):
    """Run one node for each item of a list, side by side.

    Attributes:
        kind: always `map`.
        over: CEL over `state` and `node` that gives the list.
        target: the id of the node; `ctx.item` is its item.
        join: the id of the node that follows when all have completed.
        max_concurrency: how many may run at once.
    """

    kind: Literal["map"] = "map"
    over: str
    target: Id
    join: Id
    max_concurrency: Annotated[Count, Field(le=10_000)] = 16


class Ask(_Spec):
    """Wait for a person's answer, then go on with the next action of the rule.

    Attributes:
        kind: always `interrupt`.
        prompt: the question, with fields of the state in braces.
        into: the field that takes the answer.
    """

    kind: Literal["interrupt"] = "interrupt"
    prompt: str
    into: FieldName


Action: TypeAlias = Annotated[Goto | Halt | Parallel | Map | Ask, Field(discriminator="kind")]
"""What a rule does."""


class RuleSpec(_Spec):
    """What follows a node: the first rule that applies decides.

    Attributes:
        id: its name.
        when: when it applies.
        then: what follows: one action, before which an interrupt may stand.
        description: for people.
    """

    id: Id
    when: WhenSpec
    then: Annotated[tuple[Action, ...], Field(min_length=1, max_length=2)]
    description: str | None = None

    @field_validator("when", mode="before")
    @classmethod
    def _no_clips(cls, when: object) -> object:
        if isinstance(when, str):
            raise ValueError(
                "'when' as text (CLIPS) is not supported: write  when: {node: NODE_ID, if: \"state.severity >= 4\"}"
                "  where 'if' is CEL over state and node"
            )
        return when


class MigrationSpec(_Spec):
    """How a run that an older version of the graph has made goes on with this one.

    Attributes:
        graph_hash: `from` in the file: the graph_hash of the older version, whole or its first 12 digits or more.
        state: `package.module:callable` each, given the state as a dict and returning the new one, in order.
        rename: the nodes that have another id now: the old id, and the new one.
    """

    graph_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12,64}$")] = Field(alias="from")
    state: tuple[str, ...] = ()
    rename: dict[Id, Id] = Field(default_factory=dict)


class IRDocument(_Spec):
    """A graph.

    Attributes:
        ir_version: the version of this form.
        id: the name of the graph.
        description: for people.
        state_schema: the fields of the state.
        state_class: `package.module:Class` of a pydantic model, a dataclass or a TypedDict instead.
        nodes: the steps; the first one is where a run starts.
        rules: what follows a node; without one that applies, the next node in this order does.
        migrate: how runs of older versions go on; it does not count for the graph_hash.
        max_steps: a run in which more nodes than this complete fails, so that no loop runs for ever.
    """

    ir_version: Annotated[str, StringConstraints(pattern=r"^1\.\d+\.\d+$")] = IR_VERSION
    id: Id
    description: str | None = None
    state_schema: dict[FieldName, FieldSpec] | None = None
    state_class: str | None = None
    nodes: Annotated[tuple[NodeSpec, ...], Field(min_length=1)]
    rules: tuple[RuleSpec, ...] = ()
    migrate: tuple[MigrationSpec, ...] = ()
    max_steps: Count = 10_000

    @field_validator("state_schema", mode="before")
    @classmethod
    def _short_fields(cls, schema: object) -> object:
        if isinstance(schema, dict):
            return {name: {"type": field} if isinstance(field, str) else field for name, field in schema.items()}
        return schema
