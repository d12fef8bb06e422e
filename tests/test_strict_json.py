"""T7: text that is no JSON, or JSON that hides something, each with its exact fault."""

from __future__ import annotations

import json

import pytest

from tanren.strict_json import MAX_DEPTH, child, quoted, read_json, shown, value_faults

SYNTAX = {
    '{"a": [1, 2,]}': ' column 12: found a comma before "]", expected no comma after the last '
    "entry; "
    "delete the comma",
    '{"a": 1, }': ' column 8: found a comma before "}", expected no comma after the last entry; '
    "delete the comma",
    "{'a': 1}": " column 2: found \"'a': 1}\", expected double quotes; write strings and keys in "
    "double quotes (a Python dict: use json.dumps)",
    '{"a": "x\ty"}': " column 9: found a raw \\t inside a string, expected control characters "
    "escaped; write it as \\t",
    '{"a": "\x1b$B$"': " column 8: found a raw \\u001b inside a string, expected control "
    "characters "
    "escaped; convert the file from ISO-2022-JP to UTF-8",
    '{"a": "one': ' column 7: found a string that does not end on this line, starting "one", '
    'expected a closing "; write a line break inside text as \\n, close the quote, and write the '
    "whole object on one line",
    "{": " column 2: found the end of the line, expected the rest of a JSON value; write the whole "
    "object on one line (the file is JSON spread over many lines)",
    '{"a": [': " column 8: found the end of the line, expected the rest of a JSON value; write the "
    "whole object on one line; if it was cut off, restore the rest or delete the line",
    '{"a": 1} {"a": 2}': " column 10: found a second value on the same line, expected one JSON "
    "object per line; put each object on its own line",
    '{"a": 1},': " column 9: found a comma after the object, expected one JSON object per line; "
    "delete the comma",
    '{"a": 1} x': ' column 10: found "x" after the value, expected one JSON object per line; '
    "delete it",
    '{"a": "C:\\dir"}': ' column 10: found the escape \\d, expected one of \\" \\\\ \\/ \\b \\f '
    "\\n \\r \\t \\uXXXX; write a backslash in text as \\\\",
    '{"a": None}': ' column 7: found "None}", expected a JSON value; write null',
    '{"a": True}': ' column 7: found "True}", expected a JSON value; write true',
    "{“a”: 1}": ' column 2: found "“a”: 1}", expected a plain "; replace the typographic or '
    "full-width character",
    '{"a"： 1}': ' column 5: found "： 1}", expected a plain :; replace the typographic or '
    "full-width character",
    "{a: 1}": ' column 2: found "a: 1}", expected a key in double quotes; write "a"',
    '{"a": 1 // why\n}': ' column 9: found "// why\\n}", expected JSON; delete the comment: JSON '
    "has none",
    '{"a": "say "hi" now"}': ' column 13: found "hi\\" now\\"}", expected a comma or the end of '
    "the "
    'list or object; add the comma, or write a quote in text as \\"',
    '{"a" 1}': ' column 6: found "1}", expected a ":" after the key; add the colon and the value',
    "id,question,answer": ' column 1: found "id,question,answer", expected a JSON value; write '
    "text "
    'in double quotes; a row looks like {"messages": [...]}',
}

HIDDEN = {
    '{"a": {"b": NaN}}': " a.b: found NaN, expected a finite number; write null or leave the key "
    "out: JSON has no NaN",
    '{"a": [0, -1e999]}': " a[1]: found -Infinity, expected a finite number; write null or leave "
    "the key out: JSON has no NaN",
    '{"a": {"b": 1, "b": 2}}': ' a: found the key "b" more than once, expected each key once; '
    "remove all but one (the last would silently win)",
    '{"a": "cut \\ud83d"}': ' a: found a lone surrogate in "cut \\ud83d", expected text that UTF-8 '
    "can hold; restore the other half of the pair or remove it (an emoji was cut in two)",
    '{"\\udc00": 1}': ': found a lone surrogate in the key "\\udc00", expected text that UTF-8 can '
    "hold; restore the other half of the pair or remove it (an emoji was cut in two)",
    '{"a": ' + "9" * 4301 + "}": " a: found an integer of 4301 digits, expected at most 4300 "
    "digits; write it as a string or shorten it",
    "[" * 100_000: ": found lists and objects nested more than 100 deep, expected at most 100 "
    "levels; flatten the value or keep it as a string",
    "[" * 101 + "]" * 101: ": found lists and objects nested more than 100 deep, expected at most "
    "100 levels; flatten the value or keep it as a string",
}


@pytest.mark.parametrize("text", [pytest.param(t, id=f"{i}") for i, t in enumerate(SYNTAX)])
def test_t7_syntax_errors_name_the_column_and_the_remedy(text: str) -> None:
    value, faults = read_json(text, "a.jsonl:3")
    assert value is None
    assert [str(fault) for fault in faults] == ["a.jsonl:3" + SYNTAX[text]]


@pytest.mark.parametrize("text", [pytest.param(t, id=f"{i}") for i, t in enumerate(HIDDEN)])
def test_t7_what_the_standard_parser_lets_pass_is_a_fault(text: str) -> None:
    _, faults = read_json(text, "a.jsonl:3")
    assert [str(fault) for fault in faults] == ["a.jsonl:3" + HIDDEN[text]]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2.5e3, true, null, "\\ud83d\\ude00", "日本語"], "b": {}}',
        "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        '{"a": ' + "9" * 4300 + "}",
        '{"code": "' + "{[" * 200 + '"}',
        '"a literal \\\\ud800 in text"',
    ],
)
def test_sound_json_is_read_as_the_standard_parser_reads_it(text: str) -> None:
    assert read_json(text, "x") == (json.loads(text), [])


def test_all_faults_of_a_value_come_at_once_in_order() -> None:
    _, faults = read_json('{"a": NaN, "b": {"c": 1, "c": NaN}, "d": "\\udfff"}', "x")
    assert [fault.where for fault in faults] == ["x a", "x b", "x b.c", "x d"]


def test_python_values_that_json_cannot_hold_are_faults() -> None:
    cyclic: list[object] = []
    cyclic.append(cyclic)
    assert len(value_faults(cyclic, "x")) == 1
    found = [fault.found for fault in value_faults([b"x", {3: 1}, 10**5000, (1,)], "x")]
    assert found == ["a Python bytes", "the key 3", "an integer of 16610 bits", "a Python tuple"]


def test_shown_values_are_short_and_printable() -> None:
    assert shown("日本語\u3000の\n\x1b[31m\u202e\ud800") == (
        '"日本語\u3000の\\n\\u001b[31m\\u202e\\ud800"'
    )
    assert shown("x" * 61) == '"' + "x" * 60 + '…" (61 characters)'
    assert shown({"a\n": 1, "b": 2}) == 'an object with keys "a\\n", "b"'
    assert shown([]) == "an empty list"
    assert quoted('say "hi" \\') == '"say \\"hi\\" \\\\"'


def test_paths_quote_keys_that_are_no_names() -> None:
    assert child("messages", 2) == "messages[2]"
    assert child("", "tools") == "tools"
    assert child("metadata", "my key") == 'metadata["my key"]'
    assert child("metadata", "日本") == "metadata.日本"


@pytest.mark.parametrize("unusual", ["NaN", "1e999", '{"a": 1, "a": 2}', "9" * 5000, "-Infinity"])
@pytest.mark.parametrize("rest", [",", " x", "]]", ', {"b": ', ', "one'])
def test_what_breaks_off_after_something_unusual_is_a_fault(unusual: str, rest: str) -> None:
    value, faults = read_json(f'{{"a": {unusual}{rest}', "f:1")
    assert value is None and len(faults) == 1
    assert faults[0].where.startswith("f:1 column")
