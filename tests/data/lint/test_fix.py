"""Laws of `--fix`: what is fixed is found no more, twice is once, and all else stays as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data.lint.linting import chat, clean, found, write
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tanren.data.lint import FIXED_RULES, changes_path, fix_file, lint_files
from tanren.data.lint.mend import MENDS, mended
from tanren.data.lint.mojibake import mend_mojibake
from tanren.errors import DataError

# Characters that the changes are about, among ordinary ones.
suspects = st.text(
    st.sampled_from(
        " a1.é日本のガ　\n\tÃ©â€“縺薙ｓ\u200b\ufeff\u200d\u3099\u309a\u0301ｶﾞﾊﾟﾟﾞ｡､｢ー\u00a0\u00adか"
    ),
    max_size=12,
)
misread = st.builds(
    lambda text, codec: text.encode("utf-8").decode(codec, "ignore"),
    st.text(st.sampled_from("こんにちは世界、é–ñ ｶ a"), max_size=8),
    st.sampled_from(["cp932", "cp1252", "latin-1"]),
)
texts = st.one_of(
    suspects, misread, st.text(max_size=20), st.tuples(suspects, misread).map("".join)
)


@settings(max_examples=400, deadline=None)
@given(texts)
@example("\u200b \u200b")
@example("か\u3099\u3099ﾞ")
@example(" " + "Ã\u0083Â©" + " ")
def test_mending_twice_is_mending_once(text: str) -> None:
    once, steps = mended(text)
    assert mended(once) == (once, [])
    assert bool(steps) == (once != text)
    assert bool(once.strip()) or once == text
    place = text
    for step in steps:
        assert step.before == place != step.after
        place = step.after
    assert place == once


@settings(max_examples=200, deadline=None)
@given(
    st.text(
        st.sampled_from("こんにちは世界データ入力、。「」！？ーあ日本語東京"),
        min_size=1,
        max_size=30,
    )
)
def test_japanese_misread_without_loss_comes_back(text: str) -> None:
    as_latin = text.encode("utf-8").decode("latin-1")
    # A single character may as well be an accent of French, so it is left alone.
    if len(text) > 1:
        assert mend_mojibake(as_latin) == text
    assert mend_mojibake(text) == text


def test_twice_misread_comes_back_too() -> None:
    twice = "café – 日本".encode().decode("latin-1").encode("utf-8").decode("latin-1")
    assert mended(twice)[0] == "café – 日本"


def test_what_carries_meaning_stays() -> None:
    for text in (
        "👨\u200d👩\u200d👧 ❤\ufe0f",
        "می\u200cخواهم",
        "(ﾟДﾟ)",
        "神\ufa19 塚\ufa10",
        "ＡＢＣ１２３",
        "x² ½ ™ ①",
        "a\u00a0b",
        "縺れた糸、髪が縺れる",
        "1. 髪型\n2. 縺れ髪\n3. 簪",  # e3 82 82 ea 94 af: も and a letter of Vai
        "É… «Ô» Ã",
        "ទៅ\u200bផ្ទះ",
        "é»…",
    ):
        assert mended(text) == (text, [])


def fix(
    folder: Path, lines: list[str] | bytes, name: str = "in.jsonl"
) -> tuple[Path, dict[str, Any]]:
    path = folder / name
    data = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(data)
    out = folder / f"fixed-{name}"
    return out, fix_file(path, out)


rows = st.lists(
    st.builds(
        lambda q, a, s: json.dumps(chat(q or "?", a if a.strip() else "x", s), ensure_ascii=False),
        texts,
        texts,
        st.one_of(st.none(), suspects),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows)
def test_the_fixed_file_has_no_fixed_finding_and_fixing_it_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("fix")
    source = "".join(f"{line}\n" for line in [*lines, lines[0]]).encode("utf-8", "surrogatepass")
    (folder / "in.jsonl").write_bytes(source)
    before = lint_files([folder / "in.jsonl"], near_threshold=None)
    if any(file.fault_count for file in before.files):
        return
    out, told = fix(folder, source)
    after = lint_files([out], near_threshold=None)
    assert not found(after).keys() & set(FIXED_RULES)
    again, told_again = fix(folder, out.read_bytes(), "again.jsonl")
    assert again.read_bytes() == out.read_bytes()
    assert told_again["by_rule"] == {} and changes_path(again).read_bytes() == b""
    # every row is accounted for, and rows without a change are byte for byte what they were
    changes = [json.loads(x) for x in changes_path(out).read_bytes().splitlines()]
    dropped = {c["line"] for c in changes if c["rule"] == "duplicate"}
    touched = {c["line"] for c in changes}
    kept = [n for n in range(1, len(lines) + 2) if n not in dropped]
    written = out.read_bytes().splitlines(keepends=True)
    assert told["rows_in"] == len(lines) + 1 == told["rows_out"] + len(dropped)
    assert len(written) == len(kept)
    for number, line in zip(kept, written, strict=True):
        same = line == source.splitlines(keepends=True)[number - 1]
        assert same == (number not in touched)


def test_each_change_says_what_was_there_and_what_is(tmp_path: Path) -> None:
    row = chat("ﾃﾞｰﾀ\u200b?", " yes ")
    row["metadata"] = {"id": " ﾃﾞｰﾀ ", "share": 0.5}
    line = json.dumps(row, ensure_ascii=False)
    out, told = fix(tmp_path, [line, line])
    (fixed,) = [json.loads(x) for x in out.read_bytes().splitlines()]
    assert fixed["metadata"] == row["metadata"]  # not what is said, so none of ours
    assert [m["content"] for m in fixed["messages"]] == ["データ?", "yes"]
    changes = [json.loads(x) for x in changes_path(out).read_bytes().splitlines()]
    first = [c for c in changes if c["line"] == 1]
    assert first == [
        {"line": 1, "path": "messages[0].content", "rule": "invisible-characters",
         "before": "ﾃﾞｰﾀ\u200b?", "after": "ﾃﾞｰﾀ?"},
        {"line": 1, "path": "messages[0].content", "rule": "half-width-kana",
         "before": "ﾃﾞｰﾀ?", "after": "データ?"},
        {"line": 1, "path": "messages[1].content", "rule": "outer-space",
         "before": " yes ", "after": "yes"},
    ]  # fmt: skip
    assert (changes[-1]["rule"], changes[-1]["kept_line"], changes[-1]["after"]) == (
        "duplicate",
        1,
        None,
    )
    assert told["by_rule"] == {
        "duplicate": 1, "half-width-kana": 2, "invisible-characters": 2, "outer-space": 2,
    }  # fmt: skip


def test_parts_reasoning_and_tools_are_mended_where_they_are_text(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": " ﾃﾞ "}'}}
    messages = [
        {
            "role": "user",
            "content": [{"type": "text", "text": " a\u200b"}, {"type": "text", "text": "b "}],
        },
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": " kept ｶﾞ "},
        {"role": "assistant", "content": "yes", "reasoning_content": "\nﾃﾞ\n"},
    ]
    out, _ = fix(tmp_path, [json.dumps({"messages": messages}, ensure_ascii=False)])
    fixed = json.loads(out.read_text(encoding="utf-8"))["messages"]
    assert fixed[0]["content"] == [{"type": "text", "text": "ab"}]
    assert fixed[1] == messages[1]
    assert fixed[2]["content"] == " kept ガ "
    assert fixed[3]["reasoning_content"] == "\nデ\n"


def test_marks_blank_lines_and_line_ends(tmp_path: Path) -> None:
    one, two = (json.dumps(row) for row in clean(2))
    out, told = fix(tmp_path, b"\xef\xbb\xbf" + f"  {one} \r\n\r\n{two}".encode())
    assert out.read_bytes() == f"  {one} \r\n{two}\n".encode()
    assert told["by_rule"] == {"byte-order-mark": 1}


def test_only_rules_that_are_not_skipped_are_applied(tmp_path: Path) -> None:
    path = write(tmp_path, [chat("ﾃﾞ", " yes ")] * 2)
    skipped = [rule for rule in FIXED_RULES if rule != "outer-space"]
    told = fix_file(path, tmp_path / "out.jsonl", skip=skipped)
    assert told["by_rule"] == {"outer-space": 2} and told["rows_out"] == 2


def test_a_file_is_not_fixed_in_place_and_a_faulty_one_not_at_all(tmp_path: Path) -> None:
    path = write(tmp_path, clean(3))
    before = path.read_bytes()
    with pytest.raises(DataError):
        fix_file(path, path)
    assert path.read_bytes() == before
    faulty = tmp_path / "faulty.jsonl"
    faulty.write_bytes(before + b'{"messages": []}\n')
    with pytest.raises(DataError):
        fix_file(faulty, tmp_path / "out.jsonl")
    assert {p.name for p in tmp_path.iterdir()} == {"rows.jsonl", "faulty.jsonl"}


def test_the_table_says_which_rules_fix() -> None:
    assert set(FIXED_RULES) == {*MENDS, "duplicate"}
