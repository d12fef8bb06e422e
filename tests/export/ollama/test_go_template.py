"""Laws of the Go template interpreter: known answers, and the real Go's where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from export.ollama import go_reference
from export.ollama.snippets import DATA, Snippets
from export.ollama.stock import stock_families

from tanren.export.ollama import server, translate
from tanren.export.ollama.conversations import CONVERSATIONS
from tanren.export.ollama.go_template import GoTemplate
from tanren.export.ollama.go_tokens import GoTemplateError
from tanren.template import ChatRenderer

with_go = pytest.mark.skipif(
    go_reference.go_program() is None, reason="no go on the PATH, and TANREN_GO is not set"
)


def in_go(value: Any) -> Any:
    """JSON-like data with Go's strings."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        return [in_go(each) for each in value]
    if isinstance(value, dict):
        return {name: in_go(each) for name, each in value.items()}
    return value


def rendered(template: str, **data: Any) -> str:
    return GoTemplate(template).render(in_go(data))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("a {{- 1 }} b {{ 2 -}} c {{- /* no */ -}} d", "a1 b 2cd"),
        ("a\v {{- 1 -}} \v\u3000", "a\v1\v\u3000"),
        ("{{ .Gone }}|{{ if .Gone }}x{{ else }}y{{ end }}", "<no value>|y"),
        ("{{ range $i, $e := .List }}{{ $i }}{{ $e }},{{ else }}none{{ end }}", "0a,1b,"),
        ("{{ range .Empty }}x{{ else }}none{{ end }}", "none"),
        ("{{ range $n := 3 }}{{ if eq $n 1 }}{{ continue }}{{ end }}{{ $n }}{{ end }}", "02"),
        ("{{ range .List }}{{ . }}{{ break }}{{ end }}", "a"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $x := 3 }}{{ end }}{{ $x }}", "2"),
        ("{{ with .Word }}{{ . }}{{ $.Word }}{{ end }}", "水水"),
        ("{{ len .Word }} {{ index .Word 0 }} {{ slice .Word 1 | len }}", "3 230 2"),
        ("{{ and .Word 0 .Gone.Deeper }} {{ or .Empty .Word }} {{ not .Empty }}", "0 水 true"),
        ("{{ eq 1 2 1 }} {{ eq .Word .Gone }} {{ lt 1 2 }} {{ ge 2 2 }}", "true false true true"),
        ("{{ print 1 2 .Word 3 }}|{{ println 1 .Word }}", "1 2水3|1 水\n"),
        ('{{ printf "%5d|%-3s|%q|%v" 7 "a" "b\\n" .List }}', '    7|a  |"b\\n"|[a b]'),
        ("{{ json .Map }} {{ json .Word }}", '{"a":"\\u003c","b":1} "水"'),
        ("{{ (index .List 1) }}{{ .Map.b }}{{ .Map }}", "b1map[a:< b:1]"),
        ('{{ define "up" }}{{ . }}{{ . }}{{ end }}{{ template "up" .Word }}', "水水"),
        ("{{ `{{ raw }}` }}{{ \"\\u3000\" }}{{ '水' }}", "{{ raw }}\u300027700"),
    ],
)
def test_known_answers(template: str, text: str) -> None:
    data = {"List": ["a", "b"], "Empty": [], "Word": "水", "Map": {"b": 1, "a": "<"}}
    assert rendered(template, **data) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ .Messages", "{{ end }}", "{{ if 1 }}", "{{ $x }}", "{{ nope 1 }}", "{{ break }}",
        '{{ "a', "{{ 1 2 }}", "{{{ 1 }}", "{{ len }}", "{{ .Word.Length }}", "{{ .Gone.A }}",
        "{{ eq 1 .Word }}", "{{ index .Word 9 }}", "{{ slice .Word 2 1 }}",
        "{{ range .Word }}{{ end }}", '{{ call "no" }}', '{{ template "none" . }}', "{{ ) }}",
        "{{ lt true false }}",
        "{{ if 1 }}{{ $x := 1 }}{{ end }}{{ $x }}",
    ],
)  # fmt: skip
def test_what_go_refuses_is_refused(template: str) -> None:
    with pytest.raises(GoTemplateError):
        rendered(template, Word="word")


def test_a_template_may_call_itself_ten_thousand_times() -> None:
    """A person's ten thousand spaces must not end in Python's recursion limit."""
    source = (
        '{{ define "cut" }}{{ if and . (eq (index . 0) 32) }}{{ template "cut" (slice . 1) }}'
        '{{ else }}{{ . }}{{ end }}{{ end }}{{ template "cut" .Word }}'
    )
    assert rendered(source, Word=" " * 10_000 + "end") == "end"
    endless = '{{ define "on" }}{{ template "on" . }}{{ end }}{{ template "on" . }}'
    with pytest.raises(GoTemplateError, match="depth"):
        rendered(endless)


# --- against the real Go --------------------------------------------------------------------------


def outcome(template: str, data: dict[str, Any]) -> str | None:
    try:
        text = GoTemplate(template).render(in_go(data))
    except GoTemplateError:
        return None
    # Go's JSON replaces what is not UTF-8.
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def disagreements(cases: list[dict[str, Any]], ours: list[str | None], folder: Path) -> list[Any]:
    theirs = go_reference.answers(cases, folder)
    return [
        (case["Template"], mine, answer)
        for case, mine, answer in zip(cases, ours, theirs, strict=True)
        if (mine is None) != bool(answer["Error"]) or (mine is not None and mine != answer["Text"])
    ]


@with_go
def test_go_says_the_same_of_generated_templates(tmp_path: Path) -> None:
    templates = [Snippets(seed).template() for seed in range(800)]
    ours = [outcome(template, DATA) for template in templates]
    assert sum(text is not None for text in ours) > 300
    cases = [{"Template": template, "Values": DATA} for template in templates]
    assert disagreements(cases, ours, tmp_path) == []


@with_go
def test_go_says_the_same_of_every_translation(tmp_path: Path) -> None:
    cases: list[dict[str, Any]] = []
    ours: list[str | None] = []
    for family in stock_families().values():
        renderer = ChatRenderer(family.tokenizer(), date="2026-01-31")
        text = translate(renderer).text
        for _, conversation in CONVERSATIONS:
            messages = server.collated(conversation)
            for think in (None, False, True):
                cases.append(go_case(text, messages, think))
                ours.append(prompt_or_none(text, messages, think))
    assert disagreements(cases, ours, tmp_path) == []


def go_case(text: str, messages: list[dict[str, Any]], think: bool | None) -> dict[str, Any]:
    return {
        "Template": text,
        "Messages": [{"Role": each["role"], "Content": each["content"]} for each in messages],
        "System": server.system_text(messages),
        "Think": think is True,
        "Set": think is not None,
    }


def prompt_or_none(text: str, messages: list[dict[str, Any]], think: bool | None) -> str | None:
    try:
        return server.prompt(GoTemplate(text), messages, think=think)
    except GoTemplateError:
        return None
