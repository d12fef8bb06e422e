"""Pieces of a Go template: text that comes out as it is, actions, and trimming."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from tanren.export.ollama.shape import Cutting, Trim

# What Python's str.strip takes away and Go has no function for, by length in UTF-8.
_SPACES: dict[int, Sequence[int | str]] = {
    1: [9, 10, 11, 12, 13, 28, 29, 30, 31, 32],
    2: ["\x85", "\xa0"],
    3: ["\u1680", *map(chr, range(0x2000, 0x200B)), "\u2028", "\u2029", "\u202f", "\u205f",
        "\u3000"],
}  # fmt: skip
_LINE_BREAKS: dict[int, Sequence[int | str]] = {1: [10]}


def printable(character: str) -> bool:
    """Does Ollama's reader of Modelfiles keep this character? (Go's strconv.IsPrint, and space.)"""
    return character in " \t\n" or unicodedata.category(character)[0] in "LMNPS"


def go_string(text: str) -> str:
    """A Go string in double quotes, in characters that a Modelfile keeps."""
    names = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", '"': '\\"'}
    return '"' + "".join(names.get(c) or (c if printable(c) else _escape(c)) for c in text) + '"'


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def literal(text: str) -> str:
    """Template text that writes `text`: braces, quotes and unprintable characters as actions."""

    def action(match: re.Match[str]) -> str:
        return "{{ " + go_string(match.group()) + " }}"

    marked = "".join(c if printable(c) else f"\0{c}\0" for c in text)
    parts = re.split(r"\0", marked)
    written = []
    for index, part in enumerate(parts):
        odd = index % 2 == 1
        written.append(
            "{{ " + go_string(part) + " }}" if odd else re.sub(r'\{{2,}|\{$|"{3,}', action, part)
        )
    return "".join(written)


class TemplateText:
    """A template in the making. Actions stand on lines of their own where no text would change."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._after_text = False

    def act(self, action: str) -> TemplateText:
        """An action such as `if .System`. It trims the layout before it, never written text."""
        if self._after_text:
            self._parts.append("{{ " + action + " }}")
        else:
            self._parts.append(("\n" if self._parts else "") + "{{- " + action + " }}")
        self._after_text = False
        return self

    def show(self, expression: str, trim: Trim | None = None) -> TemplateText:
        """Writes a value on the same line, trimmed as the chat template trims it."""
        name = trim_name(trim or Trim())
        self._parts.append(f'{{{{ template "{name}" {expression} }}}}' if name else
                           "{{ " + expression + " }}")  # fmt: skip
        self._after_text = False
        return self

    def write(self, text: str) -> TemplateText:
        if text:
            self._parts.append(literal(text))
            self._after_text = True
        return self

    def append(self, other: TemplateText) -> TemplateText:
        """Another text that begins with an action."""
        self._parts.extend(("\n", *other._parts))
        self._after_text = other._after_text
        return self

    def text(self) -> str:
        return "".join(self._parts)


# --- trimming -------------------------------------------------------------------------------------

_SIDES: dict[Cutting, str] = {"space": "", "newline": "Lines"}


def trim_name(trim: Trim) -> str:
    """The name of the template that trims so, or "" where nothing is trimmed."""
    if trim.left == trim.right:
        return f"trim{_SIDES[trim.left]}" if trim.left else ""
    names = [f"trim{_SIDES[cut]}{side}" for cut, side in ((trim.left, "Start"), (trim.right, "End"))
             if cut]  # fmt: skip
    return "And".join(names)


def trim_definitions(trims: set[Trim]) -> str:
    """`define`s of templates that call themselves until no white space is left at the ends.

    Go's templates have no function for that. Go allows 100000 calls inside each other.
    """
    needed = sorted({(trim_name(t), t.left, t.right) for t in trims if trim_name(t)})
    ends = sorted({right for _, left, right in needed if left and right})
    parts = [_definition(f"{_end_name(cut)}", "", cut, "") for cut in ends]
    known = {_end_name(cut) for cut in ends}
    for name, left, right in needed:
        if name not in known:
            parts.append(_definition(name, left, right, _end_name(right) if right else ""))
    return "\n".join(parts)


def _end_name(cut: Cutting) -> str:
    return f"trim{_SIDES[cut]}End"


def _definition(name: str, left: Cutting, right: Cutting, then: str) -> str:
    cut, start = (left, True) if left else (right, False)
    lines = ['{{- define "' + name + '" }}', "{{- if not . }}"]
    for length, spaces in (_SPACES if cut == "space" else _LINE_BREAKS).items():
        lines.append(_one_cut(name, length, spaces, start=start))
    rest = f'{{{{ template "{then}" . }}}}' if start and then else "{{ . }}"
    return "\n".join([*lines, "{{- else }}" + rest + "{{ end }}", "{{- end }}"])


def _one_cut(name: str, length: int, spaces: Sequence[int | str], *, start: bool) -> str:
    listed = " ".join(go_string(s) if isinstance(s, str) else str(s) for s in spaces)
    before = f"(len (slice . {length}))"  # how long the text is without its last `length` bytes
    if length == 1:
        test = f"eq (index . {'0' if start else before}) {listed}"
    else:
        part = f"(slice . 0 {length})" if start else f"(slice . {before})"
        test = f"and (ge (len .) {length}) (eq {part} {listed})"
    rest = f"(slice . {length})" if start else f"(slice . 0 {before})"
    return f'{{{{- else if {test} }}}}{{{{ template "{name}" {rest} }}}}'
