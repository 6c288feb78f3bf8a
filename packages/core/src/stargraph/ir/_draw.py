"""A graph as a Mermaid flowchart."""

from __future__ import annotations

from typing import Final

from stargraph.ir._models import Action, IRDocument, Map, NodeSpec, Parallel, RuleSpec

_MAX_LABEL: Final = 80
_SHAPES: Final = {"interrupt": ("{{", "}}"), "subgraph": ("[[", "]]"), "halt": ("([", "])")}
_LITERAL: Final = frozenset(" .,_-?!/")
_DONE: Final = "done"


def draw_graph(document: IRDocument) -> str:
    """Draw a graph as a Mermaid flowchart.

    Arrows follow rules, in their order and with their conditions, and then the declared order if no rule decides
    without a condition. The branches of a parallel or a map stand in a box. A node that is only ever a branch
    stands only there.

    Args:
        document: a graph that `check_document` accepts.

    Returns:
        Mermaid text that ends in a newline.
    """
    return "\n".join(_Drawing(document).lines()) + "\n"


class _Drawing:
    """Collects the lines of one flowchart."""

    def __init__(self, document: IRDocument) -> None:
        self._nodes = document.nodes
        self._names = {node.id: f"n{index}" for index, node in enumerate(document.nodes)}
        self._by_id = {node.id: node for node in document.nodes}
        self._rules: dict[str, list[RuleSpec]] = {}
        for rule in document.rules:
            self._rules.setdefault(rule.when.node, []).append(rule)
        self._boxes = 0
        self._lines: list[str] = []

    def lines(self) -> list[str]:
        steps = self._steps()
        self._lines += ["flowchart TD", '    start(["start"])']
        self._lines += [f"    {self._names[node.id]}{_shape(node)}" for node in self._nodes if node.id in steps]
        self._lines += [f'    {_DONE}(["done"])', f"    start --> {self._names[self._nodes[0].id]}"]
        for index, node in enumerate(self._nodes):
            if node.id in steps:
                self._draw_exits(index, node)
        return self._lines

    def _steps(self) -> set[str]:
        """The nodes that stand outside boxes: those that a run can come to, and those that are no branch."""
        branches = {target for rules in self._rules.values() for rule in rules for target in _branches(rule.then[-1])}
        order = {node.id: index for index, node in enumerate(self._nodes)}
        steps: set[str] = set()
        waiting = [self._nodes[0].id, *(node.id for node in self._nodes if node.id not in branches)]
        while waiting:
            node_id = waiting.pop()
            if node_id in steps:
                continue
            steps.add(node_id)
            rules = _deciding(self._rules.get(node_id, []))
            waiting += [target for rule in rules for target in _targets(rule.then[-1])]
            following = order[node_id] + 1
            if _falls_through(self._by_id[node_id], rules) and following < len(self._nodes):
                waiting.append(self._nodes[following].id)
        return steps

    def _draw_exits(self, index: int, node: NodeSpec) -> None:
        source = self._names[node.id]
        if node.kind == "halt":
            self._arrow(source, _DONE, node.reason)
            return
        rules = _deciding(self._rules.get(node.id, []))
        for rule in rules:
            self._draw_rule(source, rule)
        if _falls_through(node, rules):
            following = self._nodes[index + 1 :]
            target = self._names[following[0].id] if following else _DONE
            self._arrow(source, target, "else" if rules else None)

    def _draw_rule(self, source: str, rule: RuleSpec) -> None:
        label = rule.when.condition
        for action in rule.then:
            match action.kind:
                case "goto":
                    self._arrow(source, self._names[action.target], label)
                case "halt":
                    self._arrow(source, _DONE, " / ".join(text for text in (label, action.reason) if text))
                case "parallel" | "map":
                    self._draw_box(source, action, label)
                case "interrupt":
                    question = self._new_box()
                    self._lines.append(f"    {question}{{{{{_text(action.prompt)}}}}}")
                    self._arrow(source, question, label)
                    source, label = question, None
        if rule.then[-1].kind == "interrupt":
            self._draw_after_question(source, rule)

    def _draw_after_question(self, source: str, rule: RuleSpec) -> None:
        index = next(at for at, node in enumerate(self._nodes) if node.id == rule.when.node)
        following = self._nodes[index + 1 :]
        self._arrow(source, self._names[following[0].id] if following else _DONE, None)

    def _draw_box(self, source: str, action: Parallel | Map, label: str | None) -> None:
        box = self._new_box()
        title = f"for each of {action.over}" if isinstance(action, Map) else "side by side"
        self._lines.append(f"    subgraph {box}[{_text(title)}]")
        for at, target in enumerate(_branches(action)):
            self._lines.append(f"        {box}n{at}{_shape(self._by_id[target])}")
        self._lines.append("    end")
        self._arrow(source, box, label)
        self._arrow(box, self._names[action.join], None)

    def _new_box(self) -> str:
        self._boxes += 1
        return f"b{self._boxes}"

    def _arrow(self, source: str, target: str, label: str | None) -> None:
        self._lines.append(f"    {source} -->|{_text(label)}| {target}" if label else f"    {source} --> {target}")


def _deciding(rules: list[RuleSpec]) -> list[RuleSpec]:
    """Leave out the rules after the first that has no condition: they never decide."""
    for index, rule in enumerate(rules):
        if rule.when.condition is None:
            return rules[: index + 1]
    return rules


def _falls_through(node: NodeSpec, deciding: list[RuleSpec]) -> bool:
    return node.kind != "halt" and not (deciding and deciding[-1].when.condition is None)


def _branches(action: Action) -> tuple[str, ...]:
    match action.kind:
        case "parallel":
            return action.targets
        case "map":
            return (action.target,)
    return ()


def _targets(action: Action) -> tuple[str, ...]:
    match action.kind:
        case "goto":
            return (action.target,)
        case "parallel" | "map":
            return (action.join,)
    return ()


def _shape(node: NodeSpec) -> str:
    opening, closing = _SHAPES.get(node.kind, ("[", "]"))
    return f"{opening}{_text(node.id)}{closing}"


def _text(text: str) -> str:
    """Quote a label; whatever Mermaid could take for its own is written as a character code."""
    words = " ".join(text.split())
    if len(words) > _MAX_LABEL:
        words = f"{words[: _MAX_LABEL - 1]}…"
    safe = "".join(char if char.isalnum() or char in _LITERAL else f"#{ord(char)};" for char in words)
    return f'"{safe}"'
