"""Kinds of states and of values: those that come back, and those that would not.

Each class has a field `value` and a field `n`. The node `put` sets `value` to what `PUT` holds, and `look` keeps what
it is given in `SEEN`.
"""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, Required, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretStr,
    ValidationInfo,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from stargraph.graph import Context, append

PUT: dict[str, Any] = {}
SEEN: list[Any] = []


class Colour(Enum):
    RED = "red"
    BLUE = 2


class Level(IntEnum):
    LOW = 1


class Size(StrEnum):
    BIG = "big"


class Point(NamedTuple):
    x: int
    y: float = 0.5


@dataclass
class Plain:
    a: int
    b: list[str] = field(default_factory=list)


class Inner(BaseModel):
    full_name: str = Field(alias="fullName")
    at: datetime | None = None


class Forbidding(BaseModel):
    model_config = ConfigDict(extra="forbid")

    net: int = 1

    @computed_field  # type: ignore[prop-decorator]
    @property
    def gross(self) -> int:
        return self.net * 2


class Allowing(BaseModel):
    model_config = ConfigDict(extra="allow")

    known: int = 1


class Hiding(BaseModel):
    shown: int = 1
    hidden: int = Field(default=1, exclude=True)


class Private(BaseModel):
    known: int = 1
    _secret: int = PrivateAttr(default=1)


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Kitten(Cat):
    age: int = 0


class Tagged(BaseModel):
    tags: set[str] = {"p", "q", "r"}


class Node(BaseModel):
    name: str
    children: list[Node] = []


class Tags(RootModel[set[str]]):
    pass


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T


class Wrapped(BaseModel):
    amount: Decimal = Decimal(0)

    @model_serializer(mode="wrap")
    def _with_version(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {**handler(self), "version": 1}


def _state(annotation: Any, /, default: Any = ..., **config: Any) -> type[BaseModel]:
    """Return a class with a field `value`; without a default it holds None at first."""
    if default is ...:
        annotation, default = annotation | None, None
    namespace = {
        "__annotations__": {"value": annotation, "n": int},
        "value": default,
        "n": 0,
        "__module__": __name__,
        "model_config": config,
    }
    return type("State", (BaseModel,), namespace)


NAN = float("nan")
INFINITY = float("inf")
AT = datetime(2026, 3, 28, 9, 0, 0, 123456, tzinfo=UTC)

HOLD: dict[str, tuple[Any, Any]] = {
    "int": (_state(int), 2**62),
    "float": (_state(float), 0.1),
    "float of a whole number": (_state(float | int), 1.0),
    "bool among ints": (_state(bool | int), 1),
    "int among bools": (_state(int | bool), True),
    "text of a number": (_state(int | str), "5"),
    "left to right": (_state(Annotated[int | str, Field(union_mode="left_to_right")], 0), "x"),
    "NaN as text": (_state(float, ser_json_inf_nan="strings"), NAN),
    "Infinity as text": (_state(float, ser_json_inf_nan="strings"), -INFINITY),
    "Decimal": (_state(Decimal), Decimal("1.10")),
    "Decimal with an exponent": (_state(Decimal), Decimal("1E+3")),
    "UUID": (_state(UUID), UUID(int=7)),
    "Path": (_state(Path), Path("/tmp/x")),
    "timedelta": (_state(timedelta), timedelta(days=-1, microseconds=1)),
    "timedelta as a number": (_state(timedelta, ser_json_timedelta="float"), timedelta(seconds=1.5)),
    "date": (_state(date), date(2026, 1, 31)),
    "time": (_state(time), time(9, 0)),
    "datetime in UTC": (_state(datetime), AT),
    "datetime with an offset": (_state(datetime), AT.astimezone(timezone(timedelta(hours=2)))),
    "datetime in the zone UTC": (_state(datetime), AT.astimezone(ZoneInfo("UTC"))),
    "naive datetime": (_state(datetime), datetime(2026, 1, 31)),  # noqa: DTZ001
    "bytes that are text": (_state(bytes), b"abc"),
    "bytes in base64": (_state(bytes, ser_json_bytes="base64", val_json_bytes="base64"), b"\xff\x00abcd"),
    "bytes in hex": (_state(bytes, ser_json_bytes="hex", val_json_bytes="hex"), b"\xff\x00"),
    "Enum": (_state(Colour), Colour.BLUE),
    "IntEnum": (_state(Level), Level.LOW),
    "StrEnum": (_state(Size), Size.BIG),
    "Literal": (_state(Literal["a", 1]), 1),
    "NamedTuple": (_state(Point), Point(1, 2.5)),
    "tuple": (_state(tuple[int, str]), (1, "a")),
    "tuple of any length": (_state(tuple[int, ...]), (1, 2, 3)),
    "set": (_state(set[str]), {"b", "a", "c"}),
    "set with a default": (_state(set[str], {"p", "q", "r"}), {"a", "b"}),
    "set with a default inside": (_state(Tagged), Tagged(tags={"a", "b"})),
    "frozenset": (_state(frozenset[int]), frozenset((3, 1, 2))),
    "sets inside": (_state(dict[str, list[set[str]]]), {"a": [{"x", "y", "z"}]}),
    "sets in a deque": (_state(deque[frozenset[str]]), deque([frozenset(("x", "y", "z"))])),
    "deque": (_state(deque[int]), deque([1, 2])),
    "defaultdict": (_state(defaultdict[str, list[int]]), defaultdict(list, {"a": [1]})),
    "OrderedDict": (_state(OrderedDict[str, int]), OrderedDict(b=1, a=2)),
    "dict of ints": (_state(dict[int, str]), {1: "a"}),
    "dict of dates": (_state(dict[date, int]), {date(2026, 1, 1): 1}),
    "address": (_state(IPv4Address), IPv4Address("10.0.0.1")),
    "pattern": (_state(re.Pattern[str]), re.compile("a+")),
    "dataclass": (_state(Plain), Plain(1, ["x"])),
    "nested model with an alias": (_state(Inner), Inner(fullName="x", at=AT)),
    "models in models": (_state(Node), Node(name="a", children=[Node(name="b")])),
    "generic model": (_state(Box[Decimal]), Box[Decimal](content=Decimal(1))),
    "root model": (_state(Tags), Tags({"b", "a"})),
    "discriminated union": (_state(Annotated[Cat | Dog, Field(discriminator="kind")]), Dog()),
    "computed field and no extras": (_state(Forbidding), Forbidding(net=3)),
    "extras of a nested model": (_state(Allowing), Allowing.model_validate({"more": [1]})),
    "a model's own wrap serializer": (_state(Wrapped), Wrapped(amount=Decimal("1.10"))),
    "anything that is JSON": (_state(Any), {"a": [1, 1.0, True, None, "x"]}),
    "strict": (_state(tuple[datetime, bytes], strict=True), (AT, b"x")),
    "secret that says how it is stored": (
        _state(Annotated[SecretStr, PlainSerializer(lambda value: value.get_secret_value())]),
        SecretStr("x"),
    ),
}
"""What comes back: a class, and a value of its field."""

LOSE: dict[str, tuple[Any, Any, str]] = {
    "NaN": (_state(float), NAN, "ser_json_inf_nan"),
    "NaN among nothing": (_state(float | None, None), INFINITY, "ser_json_inf_nan"),
    "NaN in a list": (_state(list[float]), [1.0, NAN], "state.value[1]"),
    "NaN in a list of nothing": (_state(list[float | None]), [1.0, NAN], "state.value[1]"),
    "NaN in Any": (_state(Any), {"a": [-INFINITY]}, "ser_json_inf_nan"),
    "text that is no text": (_state(str), "\ud800", "errors="),
    "text that is no text in Any": (_state(Any), {"a": "\ud800"}, "errors="),
    "bytes that are no text": (_state(bytes), b"\xff", "base64"),
    "zone": (_state(datetime), AT.astimezone(ZoneInfo("Europe/Berlin")), "UTC"),
    "fold": (_state(datetime), datetime(2026, 10, 25, 2, 30, fold=1), "UTC"),  # noqa: DTZ001
    "tuple in Any": (_state(Any), (1, 2), "tuple"),
    "tuple deep in Any": (_state(Any), {"a": [(1,)]}, "state.value.a[0]"),
    "set in Any": (_state(Any), {1}, "set"),
    "Enum in Any": (_state(Any), Size.BIG, "Size"),
    "date in Any": (_state(Any), date(2026, 1, 1), "date"),
    "model in Any": (_state(Any), Cat(), "Cat"),
    "defaultdict in Any": (_state(Any), defaultdict(list), "defaultdict"),
    "int keys in Any": (_state(Any), {1: 2}, "key"),
    "text among Paths": (_state(Path | str), "x", "str"),
    "text among dates": (_state(date | str), "2026-01-01", "str"),
    "deque of a length": (_state(deque[int]), deque([1], maxlen=3), "bound"),
    "subclass of a model": (_state(Cat), Kitten(age=3), "Kitten"),
    "excluded in a nested model": (_state(Hiding), Hiding(hidden=2), "state.value.hidden"),
    "private attribute": (_state(Private), None, "_secret"),
    "a number beyond 64 bits": (_state(int), 2**70, "64 bits"),
    "timedelta as an inexact number": (
        _state(timedelta, ser_json_timedelta="float"),
        timedelta(days=99999999, microseconds=1),
        "timedelta",
    ),
    "secret deep inside": (_state(dict[str, SecretStr]), {"a": SecretStr("hush")}, "masked"),
    "object": (_state(Any), object(), "JSON"),
}
"""What would not come back: a class, a value of its field, and a word of the complaint."""

_private = Private()
_private._secret = 2
LOSE["private attribute"] = (_state(Private), _private, "_secret")


class Lowering(BaseModel):
    model_config = ConfigDict(str_to_lower=True)
    value: str = ""
    n: int = 0


class LoweringByValidator(BaseModel):
    value: str = ""
    n: int = 0

    @field_validator("value")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.lower()


class LoweringByType(BaseModel):
    value: Annotated[str, BeforeValidator(lambda value: value.lower())] = ""
    n: int = 0


class LoweringAsAWhole(BaseModel):
    value: str = ""
    n: int = 0

    @model_validator(mode="after")
    def _lower(self) -> LoweringAsAWhole:
        if self.value != self.value.lower():
            self.value = self.value.lower()
        return self


class LoweringAfterwards(BaseModel):
    value: str = ""
    n: int = 0

    def model_post_init(self, context: Any, /) -> None:
        self.value = self.value.lower()


class LoweringByOthers(BaseModel):
    lower: bool = True
    value: str = ""
    n: int = 0

    @field_validator("value")
    @classmethod
    def _lower(cls, value: str, info: ValidationInfo) -> str:
        return value.lower() if info.data["lower"] else value


@dataclass
class LoweringDataclass:
    value: str = ""
    n: int = 0

    def __post_init__(self) -> None:
        self.value = self.value.lower()


class LoweringDict(TypedDict, total=False):
    value: Required[Annotated[str, BeforeValidator(lambda value: value.lower())]]
    n: int


LOWERING = {
    each.__name__: each
    for each in (
        Lowering,
        LoweringByValidator,
        LoweringByType,
        LoweringAsAWhole,
        LoweringAfterwards,
        LoweringByOthers,
        LoweringDataclass,
        LoweringDict,
    )
}
"""Classes that make a value lower-case, each in another way."""


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, serialize_by_alias=True)
    the_value: str
    n: int = 0


class Choosing(BaseModel):
    the_value: str = Field(validation_alias=AliasChoices("theValue", "old_value"))
    n: int = 0


class Serializing(BaseModel):
    the_value: str = Field(serialization_alias="theValue")
    n: int = 0


ALIASED = {each.__name__: each for each in (Camel, Choosing, Serializing)}


class HidingState(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)
    value: int = 0
    n: int = 0


class FrozenState(BaseModel):
    model_config = ConfigDict(frozen=True)
    value: str = ""
    n: int = 0


@dataclass(frozen=True, slots=True)
class SlottedState:
    value: str = ""
    n: int = 0


class DictState(TypedDict):
    value: NotRequired[str]
    n: int


class JsonState(BaseModel):
    value: Json[list[int]] = []
    n: int = 0


class SerializedState(BaseModel):
    value: datetime = AT
    n: int = 0

    @field_serializer("value", when_used="json")
    def _written(self, value: datetime) -> str:
        return value.isoformat(sep=" ")


class Hashing(BaseModel):
    value: str = ""
    n: int = 0

    @field_validator("value")
    @classmethod
    def _hash(cls, value: str) -> str:
        return f"h({value})"


class MadeState(BaseModel):
    value: Annotated[datetime, Field(default_factory=lambda: datetime.now(UTC))]
    n: int = 0


class MadeLost(BaseModel):
    value: Any = Field(default_factory=lambda: (1, 2))
    n: int = 0


class _Excluding(BaseModel):
    value: dict[str, int] = Field(default_factory=dict, exclude=True)


class _Secret(BaseModel):
    value: SecretStr


class _DefaultTuple(BaseModel):
    value: Any = (1, 2)


class _DefaultZone(BaseModel):
    value: datetime = datetime(2026, 3, 28, tzinfo=ZoneInfo("Europe/Berlin"))


class _DefaultWrong(BaseModel):
    value: int = "x"  # type: ignore[assignment]


class _DefaultNotNormal(BaseModel):
    model_config = ConfigDict(str_to_lower=True)
    value: str = "LOW"


class _WholeSerializer(BaseModel):
    value: int = 0

    @model_serializer
    def _all(self) -> dict[str, int]:
        return {"v": self.value}


@dataclass
class _InitVar:
    value: InitVar[int]


@dataclass
class _NoInit:
    value: int = field(init=False, default=1)


class _Untyped:
    value = 1


@dataclass
class _Unknown:
    value: _Untyped | None = None


@dataclass
class _Undefined:
    value: NotDefinedAnywhere  # type: ignore[name-defined]  # noqa: F821


def _annotated(annotation: Any) -> Any:
    return dataclass(type("_Annotated", (), {"__annotations__": {"value": annotation}, "__module__": __name__}))


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "exclude": (_Excluding, ("'value'", "exclude")),
    "secret": (_Secret, ("value", "masked")),
    "default of another type": (_DefaultTuple, ("value", "default", "tuple")),
    "default in a zone": (_DefaultZone, ("value", "default", "Europe/Berlin")),
    "default that does not fit": (_DefaultWrong, ("value", "default")),
    "default that is not normal": (_DefaultNotNormal, ("value", "default", "validate_default")),
    "serializer of the whole": (_WholeSerializer, ("field_serializer",)),
    "InitVar": (_InitVar, ("'value'", "InitVar")),
    "init=False": (_NoInit, ("'value'", "init=False")),
    "a type that pydantic does not know": (_Unknown, ("field 'value': ", "_Untyped", "pydantic can validate")),
    "a name that is not defined": (_Undefined, ("not fully defined", "before the graph is made")),
    "a name that a module does not have": (
        _annotated("datetime.Instant"),
        ("no attribute 'Instant'", "before the graph is made"),
    ),
    "a text that is no expression": (_annotated("list["), ("list[", "pydantic can validate")),
    "a text that is no type": (_annotated("int | 5"), ("unsupported operand", "pydantic can validate")),
    "a class in which a name is not there": (
        _annotated(_annotated("datetime.Instant")),
        ("field 'value': ", "no attribute 'Instant'", "before the graph is made"),
    ),
    "a class in which a text is no type": (
        _annotated(_annotated("int | 5")),
        ("field 'value': ", "unsupported operand", "pydantic can validate"),
    ),
    "root model": (Tags, ("a pydantic model, a dataclass or a TypedDict",)),
    "ordinary class": (_Untyped, ("a pydantic model, a dataclass or a TypedDict",)),
    "no class": (AT, ("a pydantic model, a dataclass or a TypedDict",)),
}
"""Classes that no state can be of, and words of the complaint."""

State: Any = None
"""The class of the state; tests set it."""


def put(state: Any) -> dict[str, Any]:
    """Updates the fields that `PUT` holds."""
    SEEN.append(state)
    return dict(PUT)


def look(state: Any) -> dict[str, Any]:
    """Keeps what it is given."""
    SEEN.append(state)
    return {"n": 1}


def back(state: Any) -> Any:
    """Returns what it is given."""
    SEEN.append(state)
    return state


def asks(state: Any, context: Context) -> dict[str, Any]:
    """Asks for the field `at`, and keeps the answer."""
    PUT["answer"] = context.interrupt("When?", into="at")
    return {"at": PUT["answer"]}


class Coded(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    value: bytes = b""
    at: datetime | None = None
    n: int = 0


class Ordered(BaseModel):
    low: int = 0
    high: int = 10
    n: int = 0

    @field_validator("high")
    @classmethod
    def _above(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data["low"]:
            raise ValueError("high is below low")
        return value


class Related(BaseModel):
    value: int = 1
    unit: str = "m"
    n: int = 0

    @field_serializer("value")
    def _with_unit(self, value: int) -> str:
        return f"{value} {self.unit}"

    @field_validator("value", mode="before")
    @classmethod
    def _without_unit(cls, value: Any) -> Any:
        return value.partition(" ")[0] if isinstance(value, str) else value


class Pathed(BaseModel):
    value: str = Field(validation_alias=AliasPath("given", "value"))
    n: int = 0


@dataclass
class Counted:
    n: int = 0
    x: Annotated[list[int], append] = field(default_factory=lambda: [1])
