"""Source text as it counts: without comments, layout, docstrings and annotations, alike under every version of Python.

It needs nothing but `ast`, so that any Python can tell what another one would.
"""

from __future__ import annotations

import ast

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_UNSAID = frozenset({"ctx", "kind", "type_comment", "type_params", "type_ignores", "annotation", "returns"})


def meaning_of(source: str) -> str:
    """Return a text that is equal for sources of equal meaning.

    Args:
        source: the text of a function or a class.

    Raises:
        SyntaxError: it cannot be read.
        ValueError: likewise.
    """
    return _said(_parsed(source))


def code_in(source: str) -> str:
    """Return the same of the code in a class of values: its functions, and the validators in its annotations.

    Args:
        source: the text of the class.

    Returns:
        A text, empty if there is no such code.

    Raises:
        SyntaxError: it cannot be read.
        ValueError: likewise.
    """
    (holder,) = _parsed(source)
    functions = [node for node in ast.iter_child_nodes(holder) if isinstance(node, _FUNCTIONS)]
    annotations = [node.annotation for node in ast.iter_child_nodes(holder) if isinstance(node, ast.AnnAssign)]
    calls = [node for annotation in annotations for node in ast.walk(annotation) if _is_validator(node)]
    return ";".join(map(_said, [*functions, *calls]))


def _parsed(source: str) -> list[ast.stmt]:
    if source.lstrip("\r\n")[:1] not in (" ", "\t"):
        return ast.parse(source).body
    (block,) = ast.parse(f"if 1:\n{source}").body
    assert isinstance(block, ast.If)
    return block.body


def _is_validator(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    return name.endswith(("Validator", "Serializer"))


def _said(node: object) -> str:
    if isinstance(node, list):
        return f"[{','.join(map(_said, node))}]"
    if not isinstance(node, ast.AST):
        return f"{type(node).__name__}:{node!r}"
    name = type(node).__name__
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.AnnAssign):
        # An assignment with an annotation is an assignment; without a value it is nothing.
        if node.value is None:
            return "Pass()"
        name, fields = "Assign", {"targets": [node.target], "value": node.value}
    if isinstance(fields.get("body"), list):
        fields["body"] = _body(node, fields["body"])
    # What has no value is left out: versions differ in the fields that they know.
    said = (f"{key}={_said(value)}" for key, value in sorted(fields.items()) if _counts(key, value))
    return f"{name}({','.join(said)})"


def _body(node: ast.AST, body: list[ast.stmt]) -> list[ast.stmt]:
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and ast.get_docstring(node, clean=False) is not None:
        body = body[1:]
    return [statement for statement in body if not _is_nothing(statement)]


def _is_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (isinstance(statement, ast.AnnAssign) and statement.value is None)


def _counts(key: str, value: object) -> bool:
    return key not in _UNSAID and value is not None and value != []
