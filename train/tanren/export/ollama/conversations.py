"""The ten conversations on which a translated template is proven before it is written."""

from __future__ import annotations

from typing import Any, NamedTuple

Message = dict[str, Any]


class Conversation(NamedTuple):
    name: str
    messages: list[Message]


def _talk(*turns: str, system: str | None = None) -> list[Message]:
    """Messages of user and assistant by turns, behind a system message if there is one."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


_CODE = """\
Why does this print `{{ name }}`?

```python
def greet(name: str) -> str:
\treturn f"Hello, {{name}}!"  # {% raw %}

print(greet('World'))
```
"""

_LONG = " ".join(
    f"Line {number}: the river is {number * 7} metres wide here, and 水 runs under bridge {number}."
    for number in range(1, 121)
)

CONVERSATIONS: tuple[Conversation, ...] = (
    Conversation("single turn", _talk("Why is the sky blue?")),
    Conversation("system and user", _talk("Hello!", system="Answer in one short sentence.")),
    Conversation("empty system", _talk("Who are you?", system="")),
    Conversation(
        "several turns",
        _talk(
            "One?", "First.", "Two?", "Second.\nStill second.", "And three?", system="Count slowly."
        ),
    ),
    Conversation(
        "Japanese",
        _talk(
            "空はなぜ青いのですか？",
            "青い光がよく散らばるからです。",
            "　では、夕方はなぜ赤いの？　",
            system="やさしい日本語で答えてください。",
        ),
    ),
    Conversation(
        "white space at both ends",
        _talk("\n\n  padded question \t\n", "  padded answer\n\n", " \n", system="\t padded \n\n"),
    ),
    Conversation(
        "quotes and braces",
        _talk(
            'Say "hi" and \'bye\' \\ with {{ .Messages }} {{- end -}} {% if %} """ `raw` <b>&amp;',
            '{{ "{{" }} }}\'"""',
            "100% $5 #x [INST] {0} \\n",
        ),
    ),
    Conversation("code block", _talk(_CODE, "It is an f-string.", "Fix it.", system=_CODE)),
    Conversation("long text", _talk(_LONG, _LONG[::-1], "Sum it up.", system="Read all of it.")),
    Conversation(
        "two questions in a row, ends with a reply",
        [
            {"role": "user", "content": "Write a poem."},
            {"role": "user", "content": "About roses."},
            {"role": "assistant", "content": "Roses are red,"},
        ],
    ),
)
"""Ollama joins the two questions of the last one, and a template that begins a new turn after a
reply is followed in that: what the chat template writes is what counts."""
