"""Go's text/template, as far as Ollama's templates use it: from the source to words of actions.

White space around actions goes as `{{- ` and ` -}}` ask. Everything is bytes: Go's strings are, and
`len`, `index` and `slice` count bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# What Go calls white space around actions.
_SPACE = b" \t\r\n"


class GoTemplateError(ValueError):
    """A template that Go would refuse to parse or to execute, or that leaves the subset kept here.

    Ollama answers a request with such an error. Never shown to users as it is: callers turn it into
    a fault.
    """


class Token(NamedTuple):
    kind: str
    value: bytes


_TOKENS = re.compile(
    rb"""(?P<space>[ \t\r\n]+)
    |(?P<declare>:=)|(?P<assign>=)|(?P<pipe>\|)|(?P<comma>,)|(?P<open>\()|(?P<close>\))
    |(?P<string>"(?:\\.|[^"\\\n])*")|(?P<raw>`[^`]*`)|(?P<char>'(?:\\.[^']*|[^'\\\n])+')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?))
    |(?P<variable>\$[A-Za-z0-9_]*)
    |(?P<field>\.[A-Za-z_][A-Za-z0-9_]*)
    |(?P<dot>\.)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)""",
    re.VERBOSE | re.DOTALL,
)
_WORDLIKE = ("string", "raw", "char", "number", "variable", "field", "dot", "word")


def pieces(source: bytes) -> Iterator[bytes | list[Token]]:
    """Texts, trimmed as the actions beside them ask, and the tokens of each action."""
    position, trim = 0, False
    while True:
        start = source.find(b"{{", position)
        text = source[position:] if start < 0 else source[position:start]
        text = text.lstrip(_SPACE) if trim else text
        if start < 0:
            if text:
                yield text
            return
        inside = start + 2
        if source[inside : inside + 1] == b"-" and source[inside + 1 : inside + 2] in _spaces():
            text = text.rstrip(_SPACE)
            inside += 2
        if text:
            yield text
        if source[inside:].startswith(b"/*"):
            position, trim = _after_comment(source, inside)
        else:
            tokens, position, trim = _action_tokens(source, inside)
            yield tokens


def _spaces() -> tuple[bytes, ...]:
    return (b" ", b"\t", b"\r", b"\n")


def _right_end(source: bytes, position: int) -> tuple[int, bool] | None:
    """(the place behind a closing delimiter that begins here, does it trim), or None."""
    if source[position : position + 1] in _spaces() and source[position + 1 :].startswith(b"-}}"):
        return position + 4, True
    if source[position:].startswith(b"}}"):
        return position + 2, False
    return None


def _after_comment(source: bytes, start: int) -> tuple[int, bool]:
    close = source.find(b"*/", start)
    if close < 0:
        raise GoTemplateError("unclosed comment")
    end = _right_end(source, close + 2)
    if end is None:
        raise GoTemplateError("comment ends before closing delimiter")
    return end


def _action_tokens(source: bytes, position: int) -> tuple[list[Token], int, bool]:
    tokens: list[Token] = []
    while (end := _right_end(source, position)) is None:
        match = _TOKENS.match(source, position)
        if match is None:
            found = source[position : position + 20].decode("utf-8", "replace")
            what = f"unexpected {found!r} in action" if found else "unclosed action"
            raise GoTemplateError(what)
        kind = str(match.lastgroup)
        # Words must be told apart by space: Go takes `.Content"x"` and `5x` for mistakes.
        if tokens and kind in _WORDLIKE and tokens[-1].kind in _WORDLIKE and kind != "field":
            raise GoTemplateError(f"missing space before {match.group().decode()!r}")
        tokens.append(Token(kind, match.group()))
        position = match.end()
    return tokens, *end


class Tokens:
    """The tokens of one action, read from left to right; space is passed over but for fields."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self.position = 0

    def first_word(self) -> str | None:
        if self.at_end() or self.peek().kind != "word":
            return None
        return self.peek().value.decode()

    def at_end(self) -> bool:
        self._pass_space()
        return self.position >= len(self._tokens)

    def peek(self) -> Token:
        if self.at_end():
            raise GoTemplateError("action ends too early")
        return self._tokens[self.position]

    def take(self) -> Token:
        token = self.peek()
        self.position += 1
        return token

    def skip(self, kind: str) -> Token | None:
        return self.take() if not self.at_end() and self.peek().kind == kind else None

    def fields(self) -> tuple[str, ...]:
        """The `.A.B` that follow without a space."""
        names: list[str] = []
        while self.position < len(self._tokens) and self._tokens[self.position].kind == "field":
            names.append(self._tokens[self.position].value[1:].decode())
            self.position += 1
        return tuple(names)

    def _pass_space(self) -> None:
        while self.position < len(self._tokens) and self._tokens[self.position].kind == "space":
            self.position += 1


# --- constants ------------------------------------------------------------------------------------

_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    "\\": "\\", "'": "'", '"': '"',
}  # fmt: skip
_ESCAPE = re.compile(
    rb"\\(?:x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL
)


def _unescaped(text: bytes) -> bytes:
    def replaced(match: re.Match[bytes]) -> bytes:
        byte, octal, short, long, simple = match.groups()
        if byte or octal:
            return bytes([int(byte, 16) if byte else int(octal, 8)])
        if short or long:
            return chr(int(short or long, 16)).encode("utf-8")
        name = simple.decode("utf-8", "replace")
        if name not in _ESCAPES:
            raise GoTemplateError(f"bad escape \\{name}")
        return _ESCAPES[name].encode()

    return _ESCAPE.sub(replaced, text)


def unquoted(token: Token) -> bytes:
    if token.kind == "raw":
        return token.value[1:-1]
    if token.kind != "string":
        raise GoTemplateError(f"expected a quoted name, found {token.value.decode()!r}")
    return _unescaped(token.value[1:-1])


def constant(token: Token) -> bytes | int | float:
    if token.kind in ("string", "raw"):
        return unquoted(token)
    if token.kind == "char":
        characters = _unescaped(token.value[1:-1]).decode("utf-8", "replace")
        if len(characters) != 1:
            raise GoTemplateError(f"malformed character constant {token.value.decode()}")
        return ord(characters)
    if token.kind != "number":
        raise GoTemplateError(f"unexpected {token.value.decode()!r}")
    number = token.value.decode().replace("_", "")
    try:
        if "x" in number.lower():
            return int(number, 16)
        return float(number) if any(sign in number for sign in ".eE") else int(number, 10)
    except ValueError as error:
        raise GoTemplateError(f"bad number {number}") from error
