"""Runs a parsed Go template over data, with Ollama's setting `missingkey=zero`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from tanren.export.ollama.go_functions import Record, Value, functions, is_true, shown
from tanren.export.ollama.go_syntax import (
    Action,
    Argument,
    Branch,
    Chain,
    Command,
    Constant,
    Dot,
    Field,
    Function,
    Include,
    Jump,
    Node,
    Pipeline,
    Text,
    Tree,
    Variable,
    parse,
)
from tanren.export.ollama.go_tokens import GoTemplateError

FUNCTION_NAMES = frozenset(("and", "or", *functions(date.min + date.resolution)))

# As Go: deeper templates that call each other stop with an error.
_MAX_DEPTH = 100_000


class GoTemplate:
    """One template, parsed once. Raises GoTemplateError where Go would refuse it."""

    def __init__(self, source: str) -> None:
        self.tree = parse(source, FUNCTION_NAMES)

    def render(self, data: dict[str, Value], *, today: date | None = None) -> str:
        """The text. Raises GoTemplateError where Go would stop with an error."""
        return run(self.tree, data, today=today)


def run(tree: Tree, data: dict[str, Value], *, today: date | None = None) -> str:
    """The text of a tree over `data`, a Go map[string]any."""
    text = _Execution(tree, today or date.today()).text(data)
    return text.decode("utf-8", "surrogateescape")


Variables = list[tuple[str, Value]]


@dataclass(slots=True)
class _Frame:
    """A list of nodes on its way: the innermost is worked on.

    `mark` is how many variables outlive it. `rounds` are a range's next elements, each with its
    index; `loop` is that range's pipeline. Frames stand on a list of their own, not on Python's
    stack, because templates that trim text call themselves once per character.
    """

    nodes: tuple[Node, ...]
    dot: Value
    variables: Variables
    mark: int
    position: int = 0
    rounds: Iterator[tuple[Value, Value]] | None = None
    loop: Pipeline | None = None


class _Execution:
    def __init__(self, tree: Tree, today: date) -> None:
        self._tree = tree
        self._functions = functions(today)
        self._written: list[bytes] = []
        self._frames: list[_Frame] = []

    def text(self, data: Value) -> bytes:
        self._enter_template(self._tree.nodes, data)
        while self._frames:
            frame = self._frames[-1]
            if frame.position < len(frame.nodes):
                frame.position += 1
                self._node(frame.nodes[frame.position - 1], frame)
            else:
                self._next_round(frame)
        return b"".join(self._written)

    def _enter_template(self, nodes: tuple[Node, ...], dot: Value) -> None:
        if len(self._frames) > _MAX_DEPTH:
            raise GoTemplateError(f"exceeded maximum template depth ({_MAX_DEPTH})")
        self._frames.append(_Frame(nodes, dot, [("$", dot)], 0))

    def _next_round(self, frame: _Frame) -> None:
        """The frame's nodes are done: begin them anew for a range's next element, or leave."""
        del frame.variables[frame.mark :]
        following = next(frame.rounds, None) if frame.rounds is not None else None
        if following is None:
            self._frames.pop()
            return
        index, frame.dot = following
        if frame.loop is not None:
            self._declare_round(frame.loop, index, frame.dot, frame.variables)
        frame.position = 0

    @staticmethod
    def _declare_round(loop: Pipeline, index: Value, element: Value, variables: Variables) -> None:
        values = (index, element) if len(loop.declared) == 2 else (element,)
        for name, value in zip(loop.declared, values, strict=False):
            if loop.assigned:
                _assign(variables, name, value)
            else:
                variables.append((name, value))

    def _node(self, node: Node, frame: _Frame) -> None:
        if isinstance(node, Text):
            self._written.append(node.text)
        elif isinstance(node, Action):
            value = self._pipeline(node.pipeline, frame)
            if not node.pipeline.declared:
                self._written.append(shown(value, nil=b"<no value>"))
        elif isinstance(node, Branch):
            self._branch(node, frame)
        elif isinstance(node, Include):
            if node.name not in self._tree.defined:
                raise GoTemplateError(f'template "{node.name}" not defined')
            dot = self._pipeline(node.pipeline, frame) if node.pipeline else None
            self._enter_template(self._tree.defined[node.name], dot)
        else:
            self._jump(node)

    def _branch(self, node: Branch, frame: _Frame) -> None:
        mark = len(frame.variables)
        if node.kind == "range":
            self._range(node, frame, mark)
            return
        value = self._pipeline(node.pipeline, frame)
        taken = is_true(value)
        dot = value if node.kind == "with" and taken else frame.dot
        nodes = node.body if taken else node.otherwise
        self._frames.append(_Frame(nodes, dot, frame.variables, mark))

    def _range(self, node: Branch, frame: _Frame, mark: int) -> None:
        # A range's pipeline declares per element, not for itself.
        value = self._pipeline(Pipeline(node.pipeline.commands), frame)
        rounds = list(_elements(value, len(node.pipeline.declared)))
        if not rounds:
            self._frames.append(_Frame(node.otherwise, frame.dot, frame.variables, mark))
            return
        loop = node.pipeline if node.pipeline.declared else None
        done = len(node.body)
        self._frames.append(
            _Frame(node.body, None, frame.variables, mark, done, iter(rounds), loop)
        )

    def _jump(self, node: Jump) -> None:
        while self._frames[-1].rounds is None:
            self._frames.pop()
        frame = self._frames[-1]
        frame.position = len(frame.nodes)
        if node.kind == "break":
            frame.rounds = iter(())

    # --- values ---

    def _pipeline(self, pipeline: Pipeline, frame: _Frame) -> Value:
        piped: tuple[Value, ...] = ()
        for command in pipeline.commands:
            piped = (self._command(command, frame, piped),)
        for name in pipeline.declared:
            if pipeline.assigned:
                _assign(frame.variables, name, piped[0])
            else:
                frame.variables.append((name, piped[0]))
        return piped[0]

    def _command(self, command: Command, frame: _Frame, piped: tuple[Value, ...]) -> Value:
        first, *rest = command.arguments
        if isinstance(first, Function):
            return self._call(first.name, rest, frame, piped)
        if rest or piped:
            raise GoTemplateError("can't give argument to non-function")
        if isinstance(first, Constant) and first.value is None:
            raise GoTemplateError("nil is not a command")
        return self._value(first, frame)

    def _call(
        self, name: str, rest: list[Argument], frame: _Frame, piped: tuple[Value, ...]
    ) -> Value:
        if name in ("and", "or"):
            return self._first_deciding(name, rest, frame, piped)
        arguments = [*(self._value(each, frame) for each in rest), *piped]
        try:
            return self._functions[name](*arguments)
        except TypeError as error:
            raise GoTemplateError(f"wrong number of args for {name}: {error}") from error

    def _first_deciding(
        self, name: str, rest: list[Argument], frame: _Frame, piped: tuple[Value, ...]
    ) -> Value:
        value: Value = None
        if not rest and not piped:
            raise GoTemplateError(f"wrong number of args for {name}: want at least 1 got 0")
        for argument in rest:
            value = self._value(argument, frame)
            if is_true(value) == (name == "or"):
                return value
        return piped[0] if piped else value

    def _value(self, argument: Argument, frame: _Frame) -> Value:
        if isinstance(argument, Constant):
            return argument.value
        if isinstance(argument, Dot):
            return frame.dot
        if isinstance(argument, Field):
            return _walked(frame.dot, argument.names)
        if isinstance(argument, Variable):
            return _walked(_looked_up(frame.variables, argument.name), argument.names)
        if isinstance(argument, Chain):
            return _walked(self._pipeline(argument.inner, frame), argument.names)
        if isinstance(argument, Function):
            return self._call(argument.name, [], frame, ())
        return self._pipeline(argument, frame)


def _looked_up(variables: Variables, name: str) -> Value:
    for known, value in reversed(variables):
        if known == name:
            return value
    raise GoTemplateError(f'undefined variable "{name}"')


def _assign(variables: Variables, name: str, value: Value) -> None:
    for index in range(len(variables) - 1, -1, -1):
        if variables[index][0] == name:
            variables[index] = (name, value)
            return
    raise GoTemplateError(f'undefined variable "{name}"')


def _walked(value: Value, names: tuple[str, ...]) -> Value:
    """Fields of fields. Of nil every field is nil, but only at the head of the chain."""
    for position, name in enumerate(names):
        if value is None:
            if position:
                raise GoTemplateError(f"nil pointer evaluating interface {{}}.{name}")
            return None
        if isinstance(value, Record) and name in value.fields:
            value = value.fields[name]
        elif isinstance(value, dict):
            value = value.get(name)
        else:
            kind = value.type_name if isinstance(value, Record) else type(value).__name__
            raise GoTemplateError(f"can't evaluate field {name} in type {kind}")
    return value


def _elements(value: Value, variables: int) -> Iterator[tuple[Value, Value]]:
    """(index, element) of what `range` goes over; maps in the order of their keys."""
    if isinstance(value, list):
        yield from enumerate(value)
    elif isinstance(value, dict):
        for name in sorted(value):
            yield name.encode(), value[name]
    elif isinstance(value, int) and not isinstance(value, bool):
        if variables > 1:
            raise GoTemplateError(f"can't use {value} to iterate over more than one variable")
        yield from ((None, number) for number in range(value))
    elif value is not None:
        raise GoTemplateError(f"range can't iterate over {type(value).__name__}")
