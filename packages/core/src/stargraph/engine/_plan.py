"""A graph made ready to run: its nodes and rules, its state, and the hashes that it is known by."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stargraph.checkpoint.protocol import FanOut, JsonValue, Task
from stargraph.checkpoint.protocol._pydantic import assemble
from stargraph.checkpoint.values import own_json
from stargraph.engine._expression_checks import check_expressions
from stargraph.engine._expressions import Expression
from stargraph.engine._faults import Faults
from stargraph.engine._fingerprint import runtime_definition, runtime_hash
from stargraph.engine._imports import Modules
from stargraph.engine._nodes import Node, build_node
from stargraph.engine._state import StateSpec
from stargraph.errors import StateError
from stargraph.ir import (
    NO_SOURCE,
    Ask,
    Goto,
    Halt,
    IRDocument,
    Map,
    Parallel,
    RuleSpec,
    Source,
    comparable_schema,
    definition_of,
    graph_hash,
    unreachable_parts,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its expressions compiled.

    Attributes:
        spec: its definition.
        condition: decides whether it applies; None: always.
        over: gives the items of its map, if it has one.
    """

    spec: RuleSpec
    condition: Expression | None
    over: Expression | None

    @classmethod
    def build(cls, spec: RuleSpec) -> Rule:
        """Compile a rule.

        Args:
            spec: its definition.

        Raises:
            GraphError: an expression does not compile.
        """
        condition = spec.when.condition
        over = next((action.over for action in spec.then if isinstance(action, Map)), None)
        return cls(spec, Expression(condition) if condition else None, Expression(over) if over else None)


class Completion(NamedTuple):
    """What the rules see of the node that has just completed.

    Attributes:
        node: its id.
        task_id: its task.
        state: the state after it.
        update: what it returned.
    """

    node: str
    task_id: str
    state: Mapping[str, JsonValue]
    update: Mapping[str, JsonValue]

    @property
    def facts(self) -> dict[str, JsonValue]:
        """The `node` of an expression."""
        return {"id": self.node, "update": dict(self.update)}


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph, ready to run.

    Attributes:
        document: its definition.
        modules: where its code is.
        state: its state.
        nodes: its nodes by their ids.
        rules: its rules by their ids.
        graph_definition: what `graph_hash` is made of.
        graph_hash: the fingerprint of what shapes execution.
        runtime_definition: what `runtime_hash` is made of.
        runtime_hash: the fingerprint of the code.
        next_in_order: the node that follows each in the definition; the last one has none.
        children: the graphs of its subgraph nodes, by their ids.
        source: where the definition comes from, for errors.
    """

    document: IRDocument
    modules: Modules
    state: StateSpec
    nodes: dict[str, Node]
    rules: dict[str, Rule]
    graph_definition: dict[str, JsonValue]
    graph_hash: str
    runtime_definition: dict[str, JsonValue]
    runtime_hash: str
    next_in_order: dict[str, str]
    children: dict[str, Plan] = field(default_factory=dict)
    source: Source = NO_SOURCE
    _inputs: dict[str, dict[str, Expression]] = field(default_factory=dict)
    _outputs: dict[str, dict[str, Expression]] = field(default_factory=dict)
    _rules_after: dict[str, list[Rule]] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        document: IRDocument,
        load_child: Callable[[str], Plan],
        modules: Modules,
        source: Source = NO_SOURCE,
    ) -> Plan:
        """Import the code of a graph, compile its expressions and make its hashes.

        Args:
            document: the definition, checked.
            load_child: returns the plan of the graph that a subgraph node names.
            modules: where its code is.
            source: where the definition comes from, for errors.

        Raises:
            GraphError: something that it names cannot be had; all that is wrong, each with its place.
        """
        faults = Faults(source)
        with faults.at("state_class" if document.state_class is not None else "state_schema"):
            state = StateSpec(document, modules)
        nodes: dict[str, Node] = {}
        children: dict[str, Plan] = {}
        for index, spec in enumerate(document.nodes):
            with faults.at("nodes", index, "kind"):
                nodes[spec.id] = build_node(spec, modules)
            if spec.kind == "subgraph":
                with faults.at("nodes", index, "graph"):
                    children[spec.id] = load_child(spec.graph or "")
        rules: dict[str, Rule] = {}
        for index, each in enumerate(document.rules):
            with faults.at("rules", index):
                rules[each.id] = Rule.build(each)
        faults.refuse()
        subgraphs = [spec for spec in document.nodes if spec.kind == "subgraph"]
        rules_after: dict[str, list[Rule]] = {}
        for rule in rules.values():
            rules_after.setdefault(rule.spec.when.node, []).append(rule)
        definition = definition_of(document)
        if children:
            definition["subgraphs"] = {node_id: child.graph_definition for node_id, child in children.items()}
        if state.class_schema is not None:
            definition["state_class_schema"] = comparable_schema(state.class_schema)
        code = {f"node {node_id!r}": node.code for node_id, node in nodes.items() if node.code is not None}
        runtime = runtime_definition({**code, **state.code()})
        for node_id, child in children.items():
            inner = child.runtime_definition["code"]
            runtime["code"] |= {f"{name} of subgraph {node_id!r}": fingerprint for name, fingerprint in inner.items()}
        return cls(
            document=document,
            modules=modules,
            state=state,
            nodes=nodes,
            rules=rules,
            graph_definition=definition,
            graph_hash=graph_hash(definition),
            runtime_definition=runtime,
            runtime_hash=runtime_hash(runtime),
            next_in_order={spec.id: after.id for spec, after in itertools.pairwise(document.nodes)},
            children=children,
            source=source,
            _inputs={spec.id: _compiled(spec.inputs) for spec in subgraphs},
            _outputs={spec.id: _compiled(spec.outputs) for spec in subgraphs},
            _rules_after=rules_after,
        )

    def validate(self) -> tuple[str, ...]:
        """Check what a run would come to only later, in this graph and those of its subgraph nodes.

        Returns:
            Warnings: nodes that never run, rules that never apply.

        Raises:
            GraphError: an expression does not fit the state that the graph declares.
        """
        faults = Faults(self.source)
        states = {node_id: (child.document, child.state) for node_id, child in self.children.items()}
        check_expressions(self.document, self.state, states, faults)
        warnings = [str(self.source.error([fault], reason="unreachable")) for fault in unreachable_parts(self.document)]
        for child in self.children.values():
            with faults.at("nodes"):
                warnings += child.validate()
        faults.refuse()
        return tuple(dict.fromkeys(warnings))

    def rules_after(self, node: str) -> Sequence[Rule]:
        """Return the rules of a node, in their order.

        Args:
            node: its id.
        """
        return self._rules_after.get(node, ())

    @property
    def concurrency(self) -> int:
        """How many nodes may run at once, those of child runs included."""
        actions = [action for rule in self.rules.values() for action in rule.spec.then]
        widths = [len(action.targets) for action in actions if isinstance(action, Parallel)]
        widths += [action.max_concurrency for action in actions if isinstance(action, Map)]
        return max(widths, default=1) * max((child.concurrency for child in self.children.values()), default=1)

    @property
    def has_loop(self) -> bool:
        """Whether a node can run again after it has completed, in one run."""
        after = {node: {self.next_in_order[node]} if node in self.next_in_order else set() for node in self.nodes}
        for rule in self.rules.values():
            for action in rule.spec.then:
                if isinstance(action, Goto):
                    after[rule.spec.when.node].add(action.target)
                elif isinstance(action, (Parallel, Map)):
                    targets = action.targets if isinstance(action, Parallel) else (action.target,)
                    after[rule.spec.when.node] |= {*targets, action.join}
        for node in self.nodes:
            seen: set[str] = set()
            waiting = list(after[node])
            while waiting:
                reached = waiting.pop()
                if reached not in seen:
                    seen.add(reached)
                    waiting += after[reached]
            if node in seen:
                return True
        return False

    @property
    def definition(self) -> dict[str, JsonValue]:
        """What the two hashes are made of, as a checkpoint records it."""
        return {"graph": self.graph_definition, "runtime": self.runtime_definition}

    def code_of(self, node: str) -> tuple[tuple[str, str], ...]:
        """Return the fingerprints of the code that a node runs with, by what names it.

        Args:
            node: its id.
        """
        names = (f"node {node!r}", *self.state.code())
        code: Mapping[str, str] = self.runtime_definition["code"]
        return tuple((name, code[name]) for name in names if name in code)

    def inputs_of(self, node: str) -> Mapping[str, Expression]:
        """Return what gives a child run its inputs, by the child's fields.

        Args:
            node: the id of the subgraph node.
        """
        return self._inputs[node]

    def outputs_of(self, node: str) -> Mapping[str, Expression]:
        """Return what a child run's final state gives its parent, by the parent's fields.

        Args:
            node: the id of the subgraph node.
        """
        return self._outputs[node]

    def first(self, step: int) -> tuple[Task | FanOut, ...]:
        """Return the frontier of a run that begins.

        Args:
            step: the step whose state the first node is given.
        """
        return (self._task(self.document.nodes[0].id, step, previous=""),)

    def after(self, completion: Completion, step: int, *, answered: str | None = None) -> tuple[Task | FanOut, ...]:
        """Return the frontier that follows a completed node; empty if the run is done.

        Args:
            completion: the node, and the state after it.
            step: the step at which it completed.
            answered: the rule whose question was answered by this completion; it decides, past its question.

        Raises:
            StateError: a rule cannot be evaluated.
        """
        if answered is not None:
            rule: Rule | None = self.rules[answered]
            actions = self.rules[answered].spec.then[1:]
        else:
            rule = self._deciding_rule(completion)
            actions = rule.spec.then if rule else ()
        if self.nodes[completion.node].spec.kind == "halt" and rule is None:
            return ()
        if rule is None or not actions:
            following = self.next_in_order.get(completion.node)
            return () if following is None else (self._task(following, step, previous=completion.task_id),)
        action = actions[0]
        if isinstance(action, Halt):
            return ()
        if isinstance(action, Goto):
            return (self._task(action.target, step, previous=completion.task_id),)
        if isinstance(action, Ask):
            task = self._task(completion.node, step, previous=completion.task_id)
            return (task.model_copy(update={"rule": rule.spec.id}),)
        if isinstance(action, Parallel):
            return self._fork(action, rule, len(action.targets), completion.task_id, step)
        return self._fork(action, rule, len(self.items(rule, completion)), completion.task_id, step)

    def items(self, rule: Rule, completion: Completion) -> list[JsonValue]:
        """Return the items of a rule's map.

        Args:
            completion: the node that it follows.

        Raises:
            StateError: it is not a list, or not JSON.
        """
        assert rule.over is not None
        items = rule.over.evaluate(completion.state, completion.facts)
        if not isinstance(items, list):
            raise StateError(
                f"rule {rule.spec.id!r}: {rule.over.text!r} is a value of type {type(items).__qualname__}, not a list",
                reason="not-a-list",
                hint="`over` gives the list whose items are the branches, as in: state.notes",
            )
        # CEL knows values that JSON cannot say.
        return own_json(items, f"rule {rule.spec.id!r}: {rule.over.text}")  # type: ignore[no-any-return]

    def branch(self, fan_out: FanOut, index: int) -> Task:
        """Return the task of one branch.

        Args:
            index: the position of the branch in it.
        """
        action = self.rules[fan_out.rule].spec.then[-1]
        assert isinstance(action, (Parallel, Map))
        node = action.targets[index] if isinstance(action, Parallel) else action.target
        return self._task(node, fan_out.since_step, previous=fan_out.task_id, index=index)

    def join(self, fan_out: FanOut, step: int) -> Task:
        """Return the task at which the branches of a fan_out meet.

        Args:
            step: the step at which the last branch completed.
        """
        return self._task(fan_out.join, step, previous=f"{fan_out.task_id}/join")

    def _fork(
        self, action: Parallel | Map, rule: Rule, width: int, previous: str, step: int
    ) -> tuple[Task | FanOut, ...]:
        at_once = width if isinstance(action, Parallel) else min(width, action.max_concurrency)
        fan_out = FanOut.model_construct(
            kind="fan_out",
            mode=action.kind,
            rule=rule.spec.id,
            task_id=previous,
            join=action.join,
            since_step=step,
            width=width,
            next_index=at_once,
            completed_steps=(),
        )
        if width == 0:
            return (self.join(fan_out, step),)
        return (fan_out, *(self.branch(fan_out, index) for index in range(at_once)))

    def _deciding_rule(self, completion: Completion) -> Rule | None:
        for rule in self.rules_after(completion.node):
            if rule.condition is None or rule.condition.test(completion.state, completion.facts):
                return rule
        return None

    @staticmethod
    def _task(node: str, step: int, *, previous: str, index: int | None = None) -> Task:
        # An id names the way to a task and not its step, so that what others write into the log in
        # between does not change it.
        path = hashlib.sha256(f"{previous}\n{node}\n{index}".encode()).hexdigest()[:12]
        made: dict[str, Any] = {
            "kind": "task",
            "id": f"{node}-{path}" if index is None else f"{node}-{path}.{index}",
            "node": node,
            "since_step": step,
            "index": index,
            "rule": None,
            "calls": (),
        }
        return assemble(Task, made)


def _compiled(expressions: Mapping[str, str] | None) -> dict[str, Expression]:
    return {name: Expression(text) for name, text in (expressions or {}).items()}
