"""Laws of constraints: what each measures, where it begins to fail, the numbers in its words."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.distill.constraints import Checked, read_constraints
from tanren.distill.constraints.content import language_share, script_counts
from tanren.distill.constraints.size import count_sentences
from tanren.distill.rows import SourceRow
from tanren.distill.wording import TEXTS, Wording
from tanren.errors import ConfigError

ROW = SourceRow("0", 0, "a.txt", None, "", None, (), "q", {"text": "q", "row": {"id": 7}})


def checked(constraint: dict[str, Any], text: str, wording: Any = "default") -> Checked:
    found = read_constraints([constraint], source="c", beside=Path("."), allow_python=True)
    (one,) = found.plain
    measured = one.measure(text, ROW)
    words = Wording(wording).of(measured.problem, one.words) if measured.problem else ""
    return Checked(one.name, measured.value, words)


def holds(constraint: dict[str, Any], text: str) -> bool:
    return checked(constraint, text).holds


# --- length ---------------------------------------------------------------------------------------


def test_the_words_hold_the_exact_numbers() -> None:
    length = {"length": {"target": 100, "tolerance": 5}}
    assert checked(length, "a" * 112).words == (
        "The answer has 112 characters; it must have 95 to 105: shorten it by at least 7."
    )
    assert checked(length, "a").words == (
        "The answer has 1 character; it must have 95 to 105: lengthen it by at least 94."
    )
    assert checked(length, "あ" * 112, "ja").words == (
        "回答は112文字です。95〜105文字でなければなりません。あと7文字以上短くしてください。"
    )


def test_both_bounds_are_allowed_and_the_next_number_is_not() -> None:
    length = {"length": {"target": 100, "tolerance": 5}}
    found = {n: holds(length, "a" * n) for n in (94, 95, 100, 105, 106)}
    assert found == {94: False, 95: True, 100: True, 105: True, 106: False}
    bullets = {"bullets": {"min": 2, "max": 3}}
    assert [holds(bullets, "- a\n" * n) for n in (1, 2, 3, 4)] == [False, True, True, False]


@given(st.integers(0, 300), st.integers(0, 60), st.text(st.characters(codec="utf-8"), max_size=400))
def test_a_length_holds_exactly_within_its_bounds(target: int, tolerance: int, text: str) -> None:
    """And who does what the words say, no more, is within them."""
    found = checked({"length": {"target": target, "tolerance": tolerance}}, text)
    assert found.value == len(text)
    assert found.holds == (target - tolerance <= len(text) <= target + tolerance)
    if not found.holds:
        now, off = (int(n) for n in re.findall(r"has (\d+) .* least (\d+)", found.words)[0])
        mended = now - off if "shorten" in found.words else now + off
        assert now == len(text)
        assert mended in (max(0, target - tolerance), target + tolerance)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"min": 3}, "at least 3"),
        ({"max": 1, "unit": "words"}, "at most 1"),
        ({"target": 9}, "exactly 9"),
        ({"min": 3, "max": 4}, "3 to 4"),
    ],
)
def test_every_form_of_bounds_is_said(settings: dict[str, Any], wanted: str) -> None:
    text = "a b" if "unit" in settings else "ab"
    assert f"it must have {wanted}: " in checked({"length": settings}, text).words


@pytest.mark.parametrize(
    ("unit", "text", "count"),
    [
        ("characters", "日本語🙂\nab", 7),
        ("words", "two  words\nand more", 4),
        ("lines", "a\n\n \nb\nc", 3),
        ("sentences", "一つ。二つ！三つ？", 3),
        ("sentences", "It is 3.14 here. Really?! Yes", 3),
        ("sentences", '"Stop!" he said. Then he left.', 2),
        ("sentences", "「行こう。」と言った。うん", 2),
        ("sentences", "...", 0),
    ],
)
def test_units_count_what_they_say(unit: str, text: str, count: int) -> None:
    assert checked({"length": {"unit": unit, "target": count}}, text).value == count
    assert holds({"length": {"unit": unit, "target": count}}, text)


def test_newlines_are_counted_unless_told() -> None:
    assert checked({"length": {"target": 3}}, "a\nb").value == 3
    assert checked({"length": {"target": 2, "count_newlines": False}}, "a\nb").value == 2


def test_tokens_are_those_of_the_named_model(tiny_model: Any) -> None:
    from transformers import AutoTokenizer

    folder = tiny_model()
    own = AutoTokenizer.from_pretrained(folder)
    for text in ("空はなぜ青いの？", "Two and two is four.", "<|im_end|>"):
        wanted = len(own(text, add_special_tokens=False)["input_ids"])
        found = checked({"length": {"unit": "tokens", "max": 0, "tokenizer": str(folder)}}, text)
        assert found.value == wanted


@given(st.text(max_size=80))
def test_counting_sentences_ends(text: str) -> None:
    assert 0 <= count_sentences(text) <= len(text)


# --- bullets, patterns, words ---------------------------------------------------------------------


def test_bullets_of_all_kinds_and_nothing_else() -> None:
    text = "- a\n* b\n•c\n・ d\n1. e\n2) f\n③g\n  - h\n-no\n**bold**\n3.14 is pi\n-\nword - x"
    assert checked({"bullets": {"min": 1}}, text).value == 8
    words = checked({"bullets": {"min": 10, "max": 12}}, text).words
    assert words == "The answer has 8 bullets; it must have 10 to 12: add at least 2."


def test_patterns_are_wanted_or_not_as_a_part_or_a_whole() -> None:
    assert holds({"regex": "。$"}, "はい。") and not holds({"regex": "。$"}, "はい")
    assert not holds({"regex": {"pattern": "\\d", "present": False}}, "a1")
    assert holds({"regex": {"pattern": "\\d", "present": False}}, "a")
    assert not holds({"regex": {"pattern": "[a-z]+", "whole": True}}, "abc1")
    assert "1" in checked({"regex": {"pattern": "\\d", "present": False}}, "a1").words


def test_a_catastrophic_pattern_ends_and_is_no_fault_of_the_teacher() -> None:
    listed = [{"regex": r"(.+)(.+)(.+)\3\2\1!"}]
    (pattern,) = read_constraints(listed, source="c", beside=Path(".")).plain
    began = time.monotonic()
    problem = pattern.measure("".join(map(chr, range(0x4E00, 0x4FD0))) + "!", ROW).problem
    assert time.monotonic() - began < 20, "without a limit: minutes"
    assert problem is not None and problem.code == "regex.slow" and not problem.mendable


def test_words_that_must_stand_and_must_not() -> None:
    found = checked({"must_contain": ["太郎", "Tea"]}, "太郎はteaを")
    assert (found.value, found.words) == (1, 'The answer must contain "Tea", exactly so.')
    assert holds({"must_contain": {"texts": ["Tea"], "ignore_case": True}}, "tea")
    found = checked({"must_not_contain": ["申し訳", "AI"]}, "AIです", "ja")
    assert "「AI」" in found.words and "申し訳" not in found.words
    assert holds({"must_not_contain": "AI"}, "はい")


# --- language -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "good", "bad"),
    [
        ("ja", "GitHubでコードを見る。", "只有汉字的句子"),
        ("ja", "ｶﾀｶﾅだけ", "English only"),
        ("zh", "今天天气很好", "今日は天気がいい"),
        ("ko", "오늘 날씨가 좋다", "今日"),
        ("en", "It is fine, 100%.", "はい, yes"),
        ("ru", "Сегодня хорошо", "Today"),
    ],
)
def test_languages_by_their_scripts(language: str, good: str, bad: str) -> None:
    assert holds({"language": language}, good)
    assert not holds({"language": language}, bad)


def test_the_share_is_said_and_digits_have_no_say() -> None:
    assert script_counts("12, あア漢a") == {"HIRAGANA": 1, "KATAKANA": 1, "CJK": 1, "LATIN": 1}
    assert language_share(script_counts("あアー漢a"), "ja") == 0.8
    words = checked({"language": {"language": "ja", "share": 0.9}}, "あabc").words
    assert "Japanese: 25% of its letters" in words and "at least 90%" in words
    assert not holds({"language": "en"}, "123")


# --- JSON -----------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0}},
    "required": ["age"],
}


def test_json_fits_a_schema_from_a_file_or_the_settings(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    for settings in ({"definition": SCHEMA}, {"file": str(tmp_path / "s.json")}):
        assert holds({"json_schema": settings}, '{"age": 3}')
        broken = checked({"json_schema": settings}, '{"age": "x"}').words
        assert "$.age" in broken and "integer" in broken
        assert "nothing else" in checked({"json_schema": settings}, 'Here: {"age": 3}').words
        assert not holds({"json_schema": settings}, '{"age": 1, "age": 2}'), "which one counts?"


def test_a_schema_fetches_nothing(tmp_path: Path) -> None:
    schema = {"$ref": "https://example.com/schema.json"}
    with pytest.raises(ConfigError, match="a place in the schema itself"):
        checked({"json_schema": {"definition": schema}}, "{}")


# --- Python ---------------------------------------------------------------------------------------


def test_code_runs_only_when_it_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "checks.py"
    file.write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
        "def short(text, row):\n"
        "    return None if len(text) < 3 else f\"{row['row']['id']}: long\"\n"
        "def breaks(text, row):\n    return 1 / 0\ndef number(text, row):\n    return 3\n",
        encoding="utf-8",
    )
    asked = [{"python": "checks.py:short"}]
    with pytest.raises(ConfigError, match="--allow-python"):
        read_constraints(asked, source="c", beside=tmp_path)
    assert not (tmp_path / "ran").exists()
    (one,) = read_constraints(asked, source="c", beside=tmp_path, allow_python=True).plain
    assert one.measure("ab", ROW).problem is None
    problem = one.measure("abc", ROW).problem
    assert problem is not None and Wording("default").of(problem) == "7: long"
    for name, says in (("breaks", "ZeroDivisionError"), ("number", "3 from a.txt")):
        with pytest.raises(ConfigError, match=says):
            checked({"python": f"{file}:{name}"}, "x")
    with pytest.raises(ConfigError, match="no function gone"):
        checked({"python": f"{file}:gone"}, "x")


# --- settings and wording -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ([{"lenght": {"max": 3}}], "did you mean 'length'"),
        ([{"length": {"maxx": 3}}], "constraints[0].length maxx"),
        ([{"length": {"target": 3, "max": 4}}], "either target"),
        ([{"length": {"min": 4, "max": 3}}], "at most max"),
        ([{"length": {"unit": "tokens", "max": 3}}], "tokenizer"),
        ([{"length": 100}], "settings"),
        ([{"regex": "("}], "a regular expression"),
        ([{"language": "jp"}], "'ja'"),
        ([{"json_schema": {"definition": {"type": "objekt"}}}], "a valid JSON Schema"),
        ([{"length": {"max": 3}, "regex": "a"}], "one key"),
        ([{"length": {"max": 3, "words": "{{ off"}}], "words"),
        ([{"length": {"max": 3}}, {"length": {"min": 1}}], "2 times"),
        ([{"must_contain": []}], "must_contain"),
    ],
)
def test_wrong_settings_say_where(listed: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_constraints(listed, source="c", beside=Path("."))
    assert says in str(error.value)


def test_all_faults_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        read_constraints([{"x": 1}, {"regex": "("}], source="c", beside=Path("."))
    assert len(error.value.faults) == 2


def test_every_text_exists_in_both_languages() -> None:
    assert TEXTS["ja"].keys() == TEXTS["default"].keys()


def test_own_texts_and_their_mistakes() -> None:
    own = {"language": "ja", "length.high": "{{ off }}字減らして"}
    assert checked({"length": {"max": 3}}, "abcde", own).words == "2字減らして"
    assert "短く" not in checked({"length": {"max": 3, "words": "{{ found }}!"}}, "abcd").words
    for wrong, says in (
        ("jp", "one of default, en, ja"),
        ({"length.hihg": "x"}, "did you mean 'length.high'"),
        ({"length.high": "{{ "}, "a Jinja template"),
    ):
        with pytest.raises(ConfigError, match=says):
            Wording(wrong)
    with pytest.raises(ConfigError, match="placeholders among"):
        checked({"length": {"max": 3, "words": "{{ offf }}"}}, "abcd")


def test_words_of_all_broken_constraints_go_back_together() -> None:
    turn = Wording("default").turn(["first.", "second."])
    assert turn.startswith("- first.\n- second.\n") and turn.endswith("nothing but the answer.")
    assert Wording("ja").turn(["一つ。"]).startswith("一つ。\n")
