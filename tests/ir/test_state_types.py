"""The types of the state's fields, and which values have them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from pydantic import TypeAdapter

from stargraph.errors import GraphError, StateError
from stargraph.ir import FieldSpec, IRDocument, NodeSpec, definition_of, parse_type, validate_value


def spelling(text: str) -> str:
    document = IRDocument(id="g", nodes=(NodeSpec(id="a", kind="echo"),), state_schema={"f": FieldSpec(type=text)})
    spelled = definition_of(document)["state_schema"]["f"]["type"]
    assert isinstance(spelled, str)
    return spelled


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("str", "str"),
        (" int ", "int"),
        ("None", "None"),
        ("any", "any"),
        ("json", "any"),
        ("list", "list"),
        ("dict", "dict"),
        ("list[ list[int|None] ]", "list[list[int | None]]"),
        ("dict[str,any]", "dict[str, any]"),
        ("None | str", "str | None"),
        ("str | (int | str)", "int | str"),
        ("Literal['b', \"a\", 1, True, None, -3]", 'Literal["a", "b", -3, 1, None, True]'),
        ("Literal['ü\"']", 'Literal["ü\\""]'),
    ],
)
def test_a_type_has_one_spelling_which_is_read_again(text: str, spelled: str) -> None:
    assert spelling(text) == spelled
    assert spelling(spelled) == spelled


def test_types_are_typing_objects() -> None:
    assert parse_type("str") is str
    assert parse_type("list[int]") == list[int]
    assert parse_type("dict[str, bool] | None") == dict[str, bool] | None
    assert TypeAdapter(parse_type("list[any]")).validate_python([1, "a", None]) == [1, "a", None]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it is empty"),
        ("strng", "unknown name 'strng'; did you mean 'str'?"),
        ("string", "unknown name 'string'; write str"),
        ("Optional[str]", "unknown name 'Optional'; write T | None"),
        ("tuple[int]", "unknown name 'tuple'; write list"),
        ("qwxyz", "unknown name 'qwxyz'; the names are str, int"),
        ("dict[int, str]", "a dict is dict[str, T]; its keys are text"),
        ("dict[str]", "a dict is dict[str, T]"),
        ("int[str]", "int takes nothing in brackets"),
        ("Literal", "Literal needs its values"),
        ("Literal[()]", "Literal needs its values"),
        ("Literal[1.5]", "the values of Literal are text, whole numbers"),
        ("Literal[b'x']", "the values of Literal are text, whole numbers"),
        ("Literal[x]", "the values of Literal are text, whole numbers"),
        ("Literal[9223372036854775808]", "an integer outside 64 bits"),
        ("Literal['\\ud800']", "a lone surrogate"),
        ("'str'", "a value stands only inside Literal"),
        ("list[str", "'[' was never closed"),
        ("str or int", "use str, int"),
        ("__import__('os').system('x')", "use str, int"),
        ("lambda: 1", "use str, int"),
        ("[str for str in x]", "use str, int"),
        ("a\0b", "null bytes"),
        ("(" * 900, "too many nested parentheses"),
        ("list[" * 30 + "int" + "]" * 30, "nested deeper than 20 levels"),
        ("int" + " | int" * 500, "longer than 1000 characters"),
    ],
)
def test_what_is_no_type_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(GraphError) as caught:
        parse_type(text)
    assert complaint in caught.value.message
    assert caught.value.reason == "invalid-graph"


def test_reading_a_type_never_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert validate_value(r"Literal['\d', 'only here']", "\\d", "x") == "\\d"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("str", ""),
        ("int", -(2**63)),
        ("int | float", 1),
        ("float | int", 1),
        ("float | int", 1.0),
        ("bool | int", True),
        ("bool | int", 1),
        ("Literal[1, True]", 1),
        ("Literal[1, True]", True),
        ("list[float] | None", [1.5]),
        ("dict[str, list[int]]", {"a": [1]}),
        ("any", {"a": [None, 1.0, 1, True]}),
        ("float", -0.0),
    ],
)
def test_a_value_of_the_type_stays_what_it_is(text: str, value: Any) -> None:
    assert repr(validate_value(text, value, "x")) == repr(value)


@pytest.mark.parametrize(("text", "value", "result"), [("float", 1, 1.0), ("list[float]", [1, 2.5], [1.0, 2.5])])
def test_a_whole_number_in_a_float_becomes_a_float(text: str, value: Any, result: Any) -> None:
    assert repr(validate_value(text, value, "x")) == repr(result)


@pytest.mark.parametrize(
    ("text", "value", "complaint"),
    [
        ("str", 1, "x: 1 is not of type str"),
        ("int", "1", "x: '1' is not of type int"),
        ("int", True, "x: True is not of type int"),
        ("int", 1.0, "x: 1.0 is not of type int"),
        ("bool", 1, "x: 1 is not of type bool"),
        ("float", True, "x: True is not of type float"),
        ("float", "1", "x: '1' is not of type float"),
        ("float", 2**53 + 1, "x: 9007199254740993 is not of type float"),
        ("float", float("inf"), "x: Infinity is not JSON"),
        ("any", float("nan"), "x: NaN is not JSON"),
        ("list[int]", [1, [2]], "x: [1, [2]] is not of type list[int] (at [1])"),
        ("list", (1,), "x: a value of type tuple is not JSON"),
        ("dict", [1], "x: [1] is not of type dict"),
        ("Literal[1]", True, "x: True is not of type Literal[1]"),
        ("Literal[1]", 1.0, "x: 1.0 is not of type Literal[1]"),
        ("Literal['a'] | None", "b", "x: 'b' is not of type Literal[\"a\"] | None"),
        ("None", 0, "x: 0 is not of type None"),
    ],
)
def test_a_value_of_another_type_is_refused(text: str, value: Any, complaint: str) -> None:
    with pytest.raises(StateError) as caught:
        validate_value(text, value, "x")
    assert caught.value.message == complaint
