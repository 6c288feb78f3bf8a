"""What a state class says and would be ignored in silence is refused when the graph is made, or named by the error."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Generic, TypeVar

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from stargraph.errors import GraphError
from stargraph.graph import Graph, GraphBuilder, append
from stargraph.testing import run_graph


@dataclass
class ByText:
    xs: Annotated[list[int], "append"] = field(default_factory=list)


class ByTextInModel(BaseModel):
    xs: Annotated[list[int], "append"] = []


class ByTextInDict(TypedDict):
    xs: Annotated[list[int], "append"]


@dataclass
class ByMapping:
    xs: Annotated[list[int], {"reduce": "append"}] = field(default_factory=list)


@dataclass
class ByFieldMetadata:
    xs: list[int] = field(default_factory=list, metadata={"reduce": append})


class ByWrongKey(BaseModel):
    xs: list[int] = Field(default=[], json_schema_extra={"reducer": "append"})


@pytest.mark.parametrize("kind", [ByText, ByTextInModel, ByTextInDict, ByMapping, ByFieldMetadata, ByWrongKey])
def test_a_reducer_that_is_named_where_none_is_looked_for_is_refused(kind: type) -> None:
    with pytest.raises(GraphError, match=r"\.xs says .* where no reducer is looked for") as caught:
        Graph(GraphBuilder("g", kind).add_node("a", "echo"))
    assert (caught.value.reason, "Annotated[list[str], append]" in (caught.value.hint or "")) == (
        "unknown-reducer",
        True,
    )


def test_a_declared_field_is_held_to_the_same() -> None:
    builder = GraphBuilder("g")
    with pytest.raises(GraphError, match="'xs' says 'append' where no reducer is looked for"):
        builder.state(xs=(Annotated[list[int], "append"], []))


@dataclass
class Documented:
    xs: Annotated[list[int], "append", append, "what was seen"] = field(default_factory=list)
    n: Annotated[int, "how often", {"unit": "times", "reduce": False}] = field(default=0, metadata={"reducer": 5})
    kept: Annotated[str, "replace"] = ""


class DocumentedModel(BaseModel):
    xs: list[int] = Field(default=[], json_schema_extra={"reduce": "append", "reducer": "Boiler 5"})


def two(state: Any) -> dict[str, Any]:
    return {"xs": [1]}


@pytest.mark.parametrize("kind", [Documented, DocumentedModel])
def test_other_metadata_may_say_anything(kind: type) -> None:
    builder = GraphBuilder("g", kind)
    builder.node(two)
    builder.node(id="again")(two)
    builder.after("two").goto("again")
    assert run_graph(Graph(builder)).stored_state["xs"] == [1, 1]


@dataclass
class Base:
    n: int = 0


class Undecorated(Base):
    extra: int = 0


class WithMethods(Base):
    LIMIT: ClassVar[int] = 5
    MOST: Final = 7
    n: Annotated[int, "the very same type"]

    @property
    def twice(self) -> int:
        return 2 * self.n


def test_a_class_that_adds_fields_to_a_dataclass_is_one_itself() -> None:
    with pytest.raises(GraphError, match="adds the field 'extra' to a dataclass") as caught:
        Graph(GraphBuilder("g", Undecorated).add_node("a", "echo"))
    assert "@dataclass above class Undecorated" in (caught.value.hint or "")
    assert run_graph(Graph(GraphBuilder("g", WithMethods).add_node("a", "echo"))).status == "done"


class OtherType(Base):
    n: str  # type: ignore[assignment]


class OtherDefault(Base):
    n: int = 7


class BareDefault(Base):
    n = 7


@pytest.mark.parametrize("kind", [OtherType, OtherDefault, BareDefault])
def test_a_class_that_declares_a_field_of_a_dataclass_again_is_one_itself(kind: type) -> None:
    with pytest.raises(GraphError, match="declares the field 'n' of a dataclass again, and is not decorated") as caught:
        Graph(GraphBuilder("g", kind).add_node("a", "echo"))
    assert f"@dataclass above class {kind.__name__}" in (caught.value.hint or "")


class Mixin:
    mixed: int = 0
    bare_text = "may be a secret"


@dataclass
class Attributes(Mixin):
    n: int = 0
    shared: ClassVar[int] = 0
    bare = 0

    @property
    def twice(self) -> int:
        return 2 * self.n


class Private(BaseModel):
    n: int = 0
    _hidden: int = 0


def bare(state: Any) -> dict[str, Any]:
    return {"bare": 1}


def shared(state: Any) -> dict[str, Any]:
    return {"shared": 1}


def twice(state: Any) -> dict[str, Any]:
    return {"twice": 1}


def hidden(state: Any) -> dict[str, Any]:
    return {"_hidden": 1}


def other(state: Any) -> dict[str, Any]:
    return {"other": 1}


def mixed(state: Any) -> dict[str, Any]:
    return {"mixed": 1}


def bare_text(state: Any) -> dict[str, Any]:
    return {"bare_text": "b"}


@pytest.mark.parametrize(
    ("kind", "node", "hint"),
    [
        (Attributes, bare, "'bare' has no annotation, so it is no field: write bare: int = 0. It has: n."),
        (Attributes, shared, "'shared' is annotated as one value of the class Attributes, and not as a field."),
        (Attributes, twice, "'twice' is a method or property of Attributes, and no field."),
        (Private, hidden, "'_hidden' is a private attribute, which is not stored"),
        (Attributes, other, "It has: n."),
        (Attributes, mixed, "'mixed' is no field, since Mixin is no dataclass: write @dataclass above it. It has: n."),
        (Attributes, bare_text, "'bare_text' has no annotation, so it is no field: write bare_text: str = …."),
    ],
    ids=["bare", "shared", "property", "private", "unknown", "mixin", "text"],
)
def test_the_error_says_why_an_attribute_is_no_field(kind: type, node: Callable[..., Any], hint: str) -> None:
    builder = GraphBuilder("g", kind)
    builder.node(node)
    error = run_graph(Graph(builder)).error
    assert error is not None
    assert error.reason == "unknown-field"
    assert hint in error.message


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    item: T


@dataclass
class Pair(Generic[T]):
    item: T


class State(Box[int]):
    pass


@pytest.mark.parametrize("kind", [Box[int], Pair[int]])
def test_a_generic_class_is_given_a_name_for_its_types(kind: Any) -> None:
    with pytest.raises(GraphError, match="is made where it is used, so a graph cannot name it") as caught:
        GraphBuilder("g", kind)
    assert re.search(r"class State\((Box\[int\]|Pair\[…\])\): …", caught.value.hint or "")
    assert run_graph(Graph(GraphBuilder("g", State).add_node("a", "echo")), inputs={"item": 5}).state == State(item=5)
