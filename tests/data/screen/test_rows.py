"""Laws of screened files: nothing found is left, nothing else is touched, no ledger tells."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tanren.chat import Example, parse_line
from tanren.data.screen import (
    KINDS,
    Entry,
    FileReport,
    Passage,
    Screener,
    Target,
    Unjudged,
    Verdict,
    find,
    masked,
    read_plan,
    screen_row,
    targets,
    word_list,
)
from tanren.data.screen.actions import Plan
from tanren.errors import ConfigError, DataError, WorkError

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "scripts"))
LINES = importlib.import_module("measure_screen").read_lines()

ALL = Plan("redact", dict.fromkeys(("ip",), "redact"))
MAIL, CARD, PHONE = "taro@example.com", "4111111111111111", "090-1234-5678"


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"messages": messages, **more}


def dump(row: dict[str, Any], **how: Any) -> str:
    return json.dumps(row, **{"ensure_ascii": False, **how})


def redacted(row: dict[str, Any], plan: Plan = ALL) -> dict[str, Any]:
    line = screen_row(dump(row).encode(), plan, find).line
    assert line is not None
    return json.loads(line)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return path


def run(source: Path, plan: Plan = ALL, **more: Any) -> tuple[FileReport, Path, list[Any]]:
    """The report, the written rows and the ledger."""
    target = Target.of(source.with_name("out.jsonl"))
    report = Screener(plan, **more).screen(source, target)
    ledger = target.ledger.read_text(encoding="utf-8").splitlines()
    return report, target.rows, [json.loads(line) for line in ledger]


# --- what is left ---------------------------------------------------------------------------------


def test_screened_rows_hold_nothing_and_stay_as_they_are() -> None:
    """Of every labelled line: redacted once, nothing of it is found again, no byte changes again,
    and no labelled value that was found can be read in row or ledger.
    """
    checked = 0
    for line in LINES:
        row = chat(line.text, "ok")
        once = screen_row(dump(row).encode(), ALL, find)
        assert once.line is not None
        assert not find(json.loads(once.line)["messages"][0]["content"]), line
        again = screen_row(once.line, ALL, find)
        assert again.line == once.line and not again.entries
        ledger = dump({"entries": [entry.as_dict() for entry in once.entries]})
        for one in find(line.text):
            value = line.text[one.start : one.end]
            assert value not in ledger and dump({"": value})[6:-2] not in once.line.decode()
            checked += 1
    assert checked > 150


def test_values_of_any_length_are_masked() -> None:
    assert masked("taro@example.com") == "ta…om"
    assert masked("4821") == masked("hunter2ab") == "…"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(st.sampled_from([MAIL, CARD, PHONE, "〒100-0001", "123456789018"]), st.text()),
        min_size=1,
        max_size=6,
    )
)
def test_nothing_survives_in_any_surroundings(pieces: list[str]) -> None:
    row = chat(" ".join(pieces).encode("utf-8", "replace").decode() + " x", "ok")
    for how in ({}, {"ensure_ascii": True}, {"separators": (",", ":")}):
        once = screen_row(dump(row, **how).encode(), ALL, find).line
        assert once is not None
        content = json.loads(once)["messages"][0]["content"]
        assert not find(content)
        assert screen_row(once, ALL, find).line == once


def test_a_row_without_findings_is_the_very_same_bytes() -> None:
    odd = (
        b'{ "messages" : [{"content":"\\u65e5\\/","role":"user"} , '
        b'{"role":"assistant","content":"b"}]}'
    )
    assert screen_row(odd, ALL, find).line is odd


def test_report_changes_no_byte() -> None:
    line = dump(chat(MAIL, CARD)).encode()
    screened = screen_row(line, read_plan("report"), find)
    assert screened.line is line and {e.kind for e in screened.entries} == {"email", "card"}


# --- where it stands ------------------------------------------------------------------------------


def test_every_place_of_a_row_is_seen_and_what_holds_it_together_stays() -> None:
    call = {
        "id": CARD,
        "type": "function",
        "function": {
            "name": "send",
            "arguments": json.dumps({"to": [MAIL], "card": int(CARD), "n": 3, PHONE: True}),
        },
    }
    row = {
        "messages": [
            {"role": "user", "name": MAIL, "content": [{"type": "text", "text": f"to {MAIL}"}]},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": PHONE,
                "tool_calls": [call],
            },
            {"role": "tool", "tool_call_id": call["id"], "content": f'{{"card": {CARD}}}'},
            {"role": "assistant", "content": f"sent to {MAIL}"},
        ],
        "metadata": {"from": MAIL, MAIL: {"deep": [CARD]}},
    }
    entries = screen_row(dump(row).encode(), ALL, find).entries
    made = redacted(row)
    left = dump(made)
    assert MAIL not in left and PHONE not in left
    assert left.count(CARD) == 2  # in the call's id and in its answer's
    user, asked, told, end = made["messages"]
    assert user["name"] == "[EMAIL]" and user["content"][0]["text"] == "to [EMAIL]"
    assert asked["reasoning_content"] == "[PHONE]" and end["content"] == "sent to [EMAIL]"
    arguments = json.loads(asked["tool_calls"][0]["function"]["arguments"])
    assert arguments == {"to": ["[EMAIL]"], "card": "[CARD]", "n": 3, "[PHONE]": True}
    assert json.loads(told["content"]) == {"card": "[CARD]"}
    assert made["metadata"] == {"from": "[EMAIL]", "[EMAIL]": {"deep": ["[CARD]"]}}
    assert isinstance(parse_line(left, source="x", line=1), Example)
    assert "messages[1].tool_calls[0].function.arguments.card" in {one.path for one in entries}
    assert MAIL not in dump({"": [one.as_dict() for one in entries]})


def test_places_are_code_points_of_the_text() -> None:
    text = f"😀が {MAIL}"
    (entry,) = screen_row(dump(chat(text, "ok")).encode(), ALL, find).entries
    assert (entry.path, entry.start, entry.end) == ("messages[0].content", 3, 3 + len(MAIL))


def test_two_keys_redacted_alike_stay_two() -> None:
    row = chat("a", "b", metadata={MAIL: 1, "x@example.org": 2})
    assert redacted(row)["metadata"] == {"[EMAIL]": 1, "[EMAIL] 2": 2}


# --- actions --------------------------------------------------------------------------------------


def test_numbers_tell_values_of_one_row_apart() -> None:
    plan = read_plan("redact", numbered=True)
    row = chat(f"{MAIL}, X@Example.org, ＴＡＲＯ＠example.com", f"x@example.org {PHONE}")
    first, second = (message["content"] for message in redacted(row, plan)["messages"])
    assert first == "[EMAIL_1], [EMAIL_2], [EMAIL_1]"
    assert second == "[EMAIL_2] [PHONE_1]"


def test_each_kind_has_its_own_action(tmp_path: Path) -> None:
    plan = read_plan("report", redact=["email"], drop=["secret"], replacement="<{kind}>")
    rows = [chat(f"{MAIL} {PHONE}", "a"), chat('password = "hunter2abc"', "b"), chat("c", "d")]
    report, out, ledger = run(write(tmp_path / "a.jsonl", *map(dump, rows)), plan)
    written = out.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["messages"][0]["content"] for line in written] == [
        f"<email> {PHONE}",
        "c",
    ]
    assert (report.rows, report.untouched, report.redacted, report.dropped) == (3, 1, 1, 1)
    assert [(one["line"], one["kind"], one["action"]) for one in ledger] == [
        (1, "email", "redact"),
        (1, "phone", "report"),
        (2, "secret", "drop"),
    ]


def test_notes_are_left_alone_unless_they_are_named() -> None:
    row = chat("ping 8.8.8.8", "ok")
    assert redacted(row, read_plan("redact")) == row
    assert redacted(row, read_plan(redact=["ip"]))["messages"][0]["content"] == "ping [IP]"


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"redact": ["emial"]}, "did you mean 'email'"),
        ({"redact": ["email"], "drop": ["email"]}, "one action for a kind"),
        ({"default": "delete"}, "report | redact | drop"),
        ({"replacement": "nobody@example.com"}, "finds again"),
        ({"replacement": "090-1234-5678"}, "finds again"),
        ({"replacement": "a\nb"}, "control character"),
        ({"redact": ["unsafe"]}, "--drop unsafe"),
    ],
)
def test_wishes_that_cannot_be(wishes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        read_plan(**wishes)


# --- files ----------------------------------------------------------------------------------------


def test_bytes_around_rows_stay(tmp_path: Path) -> None:
    """A byte order mark, CRLF, blank lines, no newline at the end."""
    plain, hit = dump(chat("a", "b")), dump(chat(MAIL, "b"))
    source = tmp_path / "a.jsonl"
    source.write_bytes(f"\ufeff{hit}\r\n\n  \n{plain}\r\n{hit}  \n\n{plain}".encode())
    report, out, _ = run(source)
    assert out.read_bytes() == source.read_bytes().replace(MAIL.encode(), b"[EMAIL]")
    assert (report.rows, report.blank_lines, report.redacted) == (4, 3, 2)


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    rows = [dump(chat(line.text, "ok")) for line in LINES]
    report, out, ledger = run(write(tmp_path / "a.jsonl", *rows), read_plan(drop=["email"]))
    assert report.rows == len(rows) == report.untouched + report.redacted + report.dropped
    dropped = {one["line"] for one in ledger if one["action"] == "drop"}
    kept = [row for number, row in enumerate(rows, start=1) if number not in dropped]
    assert out.read_text(encoding="utf-8").splitlines() == kept
    assert len(dropped) == report.dropped and sum(report.findings.values()) == len(ledger)


def test_the_way_text_is_escaped_hides_nothing(tmp_path: Path) -> None:
    """The fast look at a line must not miss what its escapes spell."""
    at = dump(chat(MAIL, "b")).replace("@", "\\u0040")
    wide = dump(chat("電話０９０−１２３４−５６７８へ", "b"), ensure_ascii=True)
    slash = dump(chat("https://u:s3cretPw1@h.example.com", "b")).replace("/", "\\/")
    line = dump(chat("one\nfrob", "b"))
    report, _, _ = run(write(tmp_path / "a.jsonl", at, wide, slash), ALL)
    assert report.findings == {"email": 1, "phone": 1, "secret": 1}
    report, _, _ = run(write(tmp_path / "b.jsonl", line), ALL, words=word_list(["frob"]))
    assert report.findings == {"word": 1}


def test_a_faulty_row_stops_all_and_leaves_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", dump(chat(MAIL, "b")), "{", '{"messages": []}')
    with pytest.raises(DataError) as caught:
        run(source)
    assert {fault.where.partition(" ")[0] for fault in caught.value.faults} == {
        f"{source}:2",
        f"{source}:3",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", dump(chat("a", "b")))
    other = tmp_path / "sub"
    other.mkdir()
    second = write(other / "a.jsonl", dump(chat("a", "b")))
    with pytest.raises(ConfigError, match="a file that is read"):
        targets([first], first, overwrite=True)
    with pytest.raises(ConfigError, match="two files of one name"):
        targets([first, second], tmp_path / "out", overwrite=False)
    (made,) = targets([first], tmp_path / "b.jsonl", overwrite=False)
    Screener(ALL).screen(first, made)
    with pytest.raises(ConfigError, match="--overwrite"):
        targets([first], tmp_path / "b.jsonl", overwrite=False)
    assert targets([first], tmp_path / "b.jsonl", overwrite=True) == [made]


def test_many_findings_are_counted_whole_and_kept_in_part(tmp_path: Path) -> None:
    rows = [dump(chat(f"{MAIL} and x@example.org", "b"))] * 700
    report, _, ledger = run(write(tmp_path / "a.jsonl", *rows))
    assert report.findings == {"email": 1400} and len(ledger) == 1400
    assert len(report.first) == 1000


# --- moderators -----------------------------------------------------------------------------------


class Echo:
    """Calls unsafe what says so, and says nothing of a riddle."""

    name = "echo"

    def __init__(self) -> None:
        self.seen: list[Passage] = []

    def judge(self, passages: Any) -> list[Verdict | Unjudged]:
        self.seen += passages
        return [self._one(passage) for passage in passages]

    def _one(self, passage: Passage) -> Verdict | Unjudged:
        if "riddle" in passage.text:
            return Unjudged("no idea")
        bad = ("violence",) if "bad" in passage.text else ()
        return Verdict({"violence": 0.75}, bad)


def test_a_moderator_sees_every_message_and_its_verdict_falls_on_its_row(tmp_path: Path) -> None:
    rows = [chat(f"question {i}", "bad" if i in (3, 300) else "good") for i in range(310)]
    echo = Echo()
    source = write(tmp_path / "a.jsonl", *map(dump, rows))
    report, out, ledger = run(source, read_plan(drop=["unsafe"]), moderator=echo)
    assert len(echo.seen) == 620
    assert echo.seen[1] == Passage("good", "assistant", "question 0")
    assert (report.dropped, len(out.read_text(encoding="utf-8").splitlines())) == (2, 308)
    assert [one["line"] for one in ledger] == [4, 301]
    assert ledger[0]["scores"] == {"violence": 0.75} and "violence" in ledger[0]["rule"]
    assert ledger[0]["path"] == "messages[1].content"


def test_a_message_without_verdict_never_passes_unseen(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", dump(chat("a riddle", "b")), dump(chat("c", "d")))
    with pytest.raises(WorkError, match="no idea"):
        run(source, moderator=Echo())
    assert not (tmp_path / "out.jsonl").exists()
    report, out, _ = run(source, moderator=Echo(), keep_unjudged=True)
    assert report.unjudged == 1 and out.read_bytes() == source.read_bytes()


def test_no_moderator_is_asked_about_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    echo = Echo()
    source = write(tmp_path / "a.jsonl", *[dump(chat("a", "b"))] * 600, "{")
    with pytest.raises(DataError):
        run(source, moderator=echo)
    assert not echo.seen


def test_the_kinds_of_entries_are_those_there_are(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", *(dump(chat(line.text, "bad")) for line in LINES))
    report, _, ledger = run(
        source, read_plan(), moderator=Echo(), words=word_list(["bad"]), keep_unjudged=True
    )
    assert set(report.findings) == set(KINDS)
    assert set(ledger[0]) - {"scores"} == {"file", "line", *Entry.__slots__} - {"scores"}
