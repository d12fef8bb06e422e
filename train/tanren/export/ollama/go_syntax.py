"""Go's text/template, as far as Ollama's templates use it: from words of actions to a tree.

The rules are those of Go's own documentation (https://pkg.go.dev/text/template): variables live
until the `end` of their block, `{{ else if }}` shares its `{{ end }}`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tanren.export.ollama.go_tokens import GoTemplateError, Tokens, constant, pieces, unquoted

# --- the tree -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Constant:
    """A string (bytes), number, true/false, or nil (None)."""

    value: bytes | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Dot:
    """`.`"""


@dataclass(frozen=True, slots=True)
class Field:
    """`.Messages` or `.Function.Name`."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """`$`, `$message` or `$message.Role`."""

    name: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Function:
    name: str


@dataclass(frozen=True, slots=True)
class Chain:
    """`(index .Messages 0).Role`."""

    inner: Pipeline
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """A function or value with its arguments, in the order they stand."""

    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """`$name := command | command`; `assigned` tells `=` from `:=`."""

    commands: tuple[Command, ...]
    declared: tuple[str, ...] = ()
    assigned: bool = False


Argument = Constant | Dot | Field | Variable | Function | Chain | Pipeline


@dataclass(frozen=True, slots=True)
class Text:
    text: bytes


@dataclass(frozen=True, slots=True)
class Action:
    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range`."""

    kind: str
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Include:
    """`{{ template "name" pipeline }}`."""

    name: str
    pipeline: Pipeline | None


@dataclass(frozen=True, slots=True)
class Jump:
    """`break` or `continue`."""

    kind: str


Node = Text | Action | Branch | Include | Jump


@dataclass(frozen=True, slots=True)
class Tree:
    """A parsed template: its own nodes, and those of its `define`s."""

    nodes: tuple[Node, ...]
    defined: dict[str, tuple[Node, ...]]


# --- from tokens to the tree ----------------------------------------------------------------------

_BLOCKS = frozenset({"if", "with", "range"})


class _Parser:
    def __init__(self, source: str, functions: frozenset[str]) -> None:
        self._pieces = list(pieces(source.encode("utf-8", "surrogateescape")))
        self._position = 0
        self._functions = functions
        self._variables = ["$"]
        self._loops = 0
        self._defined: dict[str, tuple[Node, ...]] = {}

    def tree(self) -> Tree:
        nodes, ended_by = self._nodes()
        if ended_by is not None:
            raise GoTemplateError(f"unexpected {{{{{ended_by}}}}}")
        return Tree(nodes, self._defined)

    def _nodes(self) -> tuple[tuple[Node, ...], str | None]:
        """Nodes up to `end` or `else` (which is named) or the end of the text (None)."""
        nodes: list[Node] = []
        while self._position < len(self._pieces):
            piece = self._pieces[self._position]
            if isinstance(piece, bytes):
                nodes.append(Text(piece))
                self._position += 1
                continue
            tokens = Tokens(piece)
            word = tokens.first_word()
            if word in ("end", "else"):
                return tuple(nodes), word
            self._position += 1
            node = self._action(word, tokens)
            if node is not None:
                nodes.append(node)
        return tuple(nodes), None

    def _action(self, word: str | None, tokens: Tokens) -> Node | None:
        if word in _BLOCKS:
            tokens.take()
            return self._branch(str(word), tokens)
        if word in ("define", "block"):
            tokens.take()
            return self._definition(str(word), tokens)
        if word == "template":
            tokens.take()
            name = unquoted(tokens.take()).decode()
            return Include(name, None if tokens.at_end() else self._pipeline(tokens, "template"))
        if word in ("break", "continue"):
            if not self._loops:
                raise GoTemplateError(f"{{{{{word}}}}} outside {{{{range}}}}")
            return Jump(str(word))
        return Action(self._pipeline(tokens, "command"))

    def _branch(self, kind: str, tokens: Tokens) -> Branch:
        known = len(self._variables)
        pipeline = self._pipeline(tokens, kind)
        self._loops += kind == "range"
        body, ended_by = self._nodes()
        self._loops -= kind == "range"
        otherwise: tuple[Node, ...] = ()
        if ended_by == "else":
            otherwise = self._otherwise(kind)
        elif ended_by == "end":
            self._position += 1
        else:
            raise GoTemplateError(f"unexpected EOF in {{{{{kind}}}}}")
        del self._variables[known:]
        return Branch(kind, pipeline, body, otherwise)

    def _otherwise(self, kind: str) -> tuple[Node, ...]:
        piece = self._pieces[self._position]
        assert not isinstance(piece, bytes)
        tokens = Tokens(piece)
        tokens.take()
        self._position += 1
        # `{{ else if }}` shares its `{{ end }}` with the `if` it belongs to.
        chained = tokens.first_word()
        if chained is not None and chained == kind and kind in ("if", "with"):
            tokens.take()
            return (self._branch(kind, tokens),)
        if not tokens.at_end():
            raise GoTemplateError("unexpected text after {{else")
        nodes, ended_by = self._nodes()
        if ended_by != "end":
            raise GoTemplateError("expected {{end}} after {{else}}")
        self._position += 1
        return nodes

    def _definition(self, kind: str, tokens: Tokens) -> Node | None:
        name = unquoted(tokens.take()).decode()
        pipeline = self._pipeline(tokens, kind) if kind == "block" else None
        outside, loops = self._variables, self._loops
        self._variables, self._loops = ["$"], 0
        nodes, ended_by = self._nodes()
        self._variables, self._loops = outside, loops
        if ended_by != "end":
            raise GoTemplateError(f"{{{{{kind}}}}} {name} without {{{{end}}}}")
        self._position += 1
        self._defined[name] = nodes
        return Include(name, pipeline) if kind == "block" else None

    # --- pipelines ---

    def _pipeline(self, tokens: Tokens, context: str, *, closed_by: str | None = None) -> Pipeline:
        declared, assigned = self._declaration(tokens, context)
        commands = [self._command(tokens, closed_by)]
        while tokens.skip("pipe"):
            commands.append(self._command(tokens, closed_by))
        if closed_by is None and not tokens.at_end():
            raise GoTemplateError(f"unexpected {tokens.take().value.decode()!r} in {context}")
        if any(not isinstance(c.arguments[0], Function | Field | Variable | Chain)
               for c in commands[1:]):  # fmt: skip
            raise GoTemplateError("non executable command in pipeline")
        # Go knows a variable from here on: not yet inside its own pipeline.
        if not assigned:
            self._variables.extend(declared)
        return Pipeline(tuple(commands), declared, assigned)

    def _declaration(self, tokens: Tokens, context: str) -> tuple[tuple[str, ...], bool]:
        mark = tokens.position
        names: list[str] = []
        while (token := tokens.skip("variable")) is not None:
            names.append(token.value.decode())
            if context == "range" and len(names) == 1 and tokens.skip("comma"):
                continue
            sign = tokens.skip("declare") or tokens.skip("assign")
            if sign is not None:
                assigned = sign.kind == "assign"
                if assigned:
                    for name in names:
                        self._known(name)
                return tuple(names), assigned
            break
        tokens.position = mark
        return (), False

    def _command(self, tokens: Tokens, closed_by: str | None) -> Command:
        arguments: list[Argument] = []
        while not tokens.at_end() and tokens.peek().kind not in ("pipe", "close"):
            arguments.append(self._argument(tokens))
        if not arguments:
            raise GoTemplateError("missing value for command")
        if closed_by is None and not tokens.at_end() and tokens.peek().kind == "close":
            raise GoTemplateError("unexpected right paren")
        return Command(tuple(arguments))

    def _argument(self, tokens: Tokens) -> Argument:
        token = tokens.take()
        if token.kind == "open":
            inner = self._pipeline(tokens, "parenthesis", closed_by="close")
            if tokens.skip("close") is None:
                raise GoTemplateError("unclosed left paren")
            names = tokens.fields()
            return Chain(inner, names) if names else inner
        if token.kind == "field":
            return Field((token.value[1:].decode(), *tokens.fields()))
        if token.kind == "dot":
            return Dot()
        if token.kind == "variable":
            return Variable(self._known(token.value.decode()), tokens.fields())
        if token.kind == "word":
            return self._word(token.value.decode())
        return Constant(constant(token))

    def _word(self, word: str) -> Argument:
        if word in ("true", "false"):
            return Constant(word == "true")
        if word == "nil":
            return Constant(None)
        if word not in self._functions:
            raise GoTemplateError(f'function "{word}" not defined')
        return Function(word)

    def _known(self, name: str) -> str:
        if name not in self._variables:
            raise GoTemplateError(f'undefined variable "{name}"')
        return name


def parse(source: str, functions: frozenset[str]) -> Tree:
    """The tree of a template. `functions` are the names it may call. Raises GoTemplateError."""
    return _Parser(source, functions).tree()
