"""Each rule finds the row that was planted for it, there and nowhere else, and lets its sound
counterpart pass.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data.lint.linting import Row, chat, clean, clean_japanese, found, lint, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tanren.data.lint import RULES, lint_files
from tanren.data.lint.found import MAX_PLACES
from tanren.data.lint.languages import language
from tanren.errors import TanrenError

QUESTION = "How is the weather in the town by the sea?"
ANSWER = "It is fine, and it is going to stay so for the rest of the week."
JAPANESE = "海のそばの町の天気は、どうですか？"
KOTAE = "とてもよい天気で、今週はずっとつづくそうです。"


def answered(text: str) -> tuple[Row, ...]:
    return (chat(QUESTION, text),)


def asked(text: str) -> tuple[Row, ...]:
    return (chat(text, ANSWER),)


def as_cp1252(text: str) -> str:
    return "".join(
        bytes([byte]).decode("cp1252") if byte not in b"\x81\x8d\x8f\x90\x9d" else chr(byte)
        for byte in text.encode("utf-8")
    )


CASES: list[tuple[str, tuple[Row, ...], tuple[Row, ...]]] = [
    # mojibake, by each of the ways to it
    (
        "mojibake",
        answered(as_cp1252("The café – so they say – is open for all of us.")),
        answered("The café – so they say – is open for all of us."),
    ),
    (
        "mojibake",
        asked("東京都".encode().decode("cp932") + "?"),
        asked("縺れ髪とは何ですか？髪が縺れる。"),
    ),
    ("mojibake", asked(as_cp1252(JAPANESE)), asked(JAPANESE)),
    (
        "mojibake",
        asked(JAPANESE.encode("utf-8").decode("latin-1")),
        asked("Ã la carte, naïve, É… «Ô»?"),
    ),
    ("mojibake", asked(as_cp1252("привет мир") + "?"), asked("привет мир, как дела?")),
    ("mojibake", asked("こんにちは".encode("cp932").decode("latin-1")), asked("ﾃﾞｰﾀ")),
    (
        "damaged-characters",
        answered("It is fin\ufffd, and it is going to stay so for the week."),
        answered(ANSWER),
    ),
    (
        "damaged-characters",
        asked("日本語のデータです".encode().decode("cp932", "ignore")),
        asked("日本語のデータです"),
    ),
    (
        "invisible-characters",
        answered("It is \u200bfine, and it is going to stay so this week."),
        answered(
            "It is fine \U0001f468\u200d\U0001f469\u200d\U0001f467, and so it stays all this week."
        ),
    ),
    ("invisible-characters", asked("\ufeff" + QUESTION), asked("می\u200cخواهم")),
    (
        "control-characters",
        answered("It is \x1b[31mfine\x1b[0m, and it is going to stay so."),
        answered("It is\tfine,\r\nand it is going to stay so for the week."),
    ),
    ("control-characters", asked("How is \u202eit?"), asked("How is it?")),
    (
        "no-break-space",
        asked("How is the weather\u00a0today in the town?"),
        asked("天気は　どうですか？"),
    ),
    ("half-width-kana", asked("ﾃﾞｰﾀはどこですか？"), asked("データはどこですか(ﾟДﾟ)？")),
    (
        "decomposed-characters",
        asked("か\u3099くせいは cafe\u0301 にいますか？"),
        asked("がくせいは café にいますか、神田の神\ufa19は？"),
    ),
    ("outer-space", answered(f" {ANSWER}"), answered(ANSWER)),
    ("outer-space", asked(f"{QUESTION}\u3000\n"), asked(f"{QUESTION[:10]}\n{QUESTION[10:]}")),
    # what answers say
    (
        "template-leftover",
        answered("Dear {{ name }}, it is fine and stays so for the week."),
        answered("In LaTeX it is \\frac{{a}}{b}, and this is so in all of the week."),
    ),
    ("template-leftover", answered(f"{ANSWER}<|im_end|>"), answered(f"{ANSWER[:-1]} <or so>.")),
    (
        "template-leftover",
        answered("### Response:\nIt is fine, and it is going to stay so."),
        answered("### The weather\nIt is fine, and it is going to stay so."),
    ),
    (
        "template-leftover",
        answered("Best regards, and all good wishes to you,\n[Your Name]."),
        answered("An array [Name] is what it is, and it is going to stay so."),
    ),
    (
        "template-leftover",
        answered("[INST] It is fine, and it is going to stay so."),
        answered("```\n{{ name }} </s>\n```\nor `<|im_end|>` is how it is written in templates."),
    ),
    (
        "boilerplate",
        answered("As an AI language model, I do not know the weather of the week."),
        answered("A language is a model of the world, as an artist said to all of us."),
    ),
    (
        "boilerplate",
        (chat(JAPANESE, "申し訳ありませんが、その質問にはお答えできません。"),),
        (chat(JAPANESE, "電車がおくれたときは、申し訳ありませんがと言います。"),),
    ),
    (
        "boilerplate",
        answered("I'm sorry, but I can't help you with the weather of this week."),
        answered("She said she is sorry, but he can't help you with the weather."),
    ),
    (
        "loop",
        answered("It is fine. It is so. " * 6 + "And so it was."),
        answered("It is fine. It is so."),
    ),
    ("loop", (chat(JAPANESE, "とてもよい天気です、とても" * 6 + "。"),), (chat(JAPANESE, KOTAE),)),
    ("loop", answered("Well, n" + "o" * 40 + "!"), answered("Well, noooo!")),
    (
        "loop",
        answered("The sea is calm today. One. The sea is calm today. Two. The sea is calm today."),
        answered("| a | b | c |\n|---|---|---|\n" + "| 1 | 2 | 3 |\n" * 9 + "And so it is."),
    ),
    (
        "cut-answer",
        answered("It is fine, and it is going to stay so for the rest of the"),
        answered("- fine and warm\n- going to stay so for the week"),
    ),
    ("cut-answer", answered("It is fine, and it is going to stay,"), answered("It is 24")),
    (
        "unclosed-fence",
        answered("So it is:\n```python\nprint(1)\nAnd that is all of it."),
        answered("So it is:\n```python\nprint(1)\n```\nAnd that is all of it."),
    ),
    (
        "unclosed-bracket",
        answered("It is fine (as they say, and it is going to stay so."),
        answered("It is fine (as they say): 1) warm, b) dry :) and [0, 1) f(x) of it."),
    ),
    (
        "unclosed-bracket",
        (chat(JAPANESE, "母は「よい天気だ、今週はずっとつづくそうだと言いました。"),),
        (chat(JAPANESE, "母は「よい天気だ（と思う）」と言いました。"),),
    ),
    ("prompt-as-answer", (chat(QUESTION, f"{QUESTION}"),), (chat(QUESTION, ANSWER),)),
    (
        "contact",
        answered("Write to someone@example.com for the rest of the week."),
        answered("Write to someone @ the office for the rest of the week."),
    ),
    ("contact", answered("See https://example.com/a for the rest of it."), answered(ANSWER)),
    (
        "untrained-answer",
        (
            {
                "messages": [
                    *chat(QUESTION, ANSWER)["messages"],
                    *chat("And?", ANSWER, weight=0)["messages"],
                ]
            },
        ),
        (
            {
                "messages": [
                    *chat(QUESTION, ANSWER, weight=0)["messages"],
                    *chat("And then?", "It is over, and it is going to stay so.")["messages"],
                ]
            },
        ),
    ),
    # languages and lengths
    ("other-language", (chat(QUESTION, KOTAE),), (chat(QUESTION, ANSWER),)),
    (
        "other-language",
        (chat(QUESTION, "Il fait beau et les jours qui viennent sont pour nous."),),
        (chat(QUESTION, "Al and Del are in La Paz with us, and the weather is fine."),),
    ),
    ("rare-language", (chat(JAPANESE, KOTAE),), (chat("天気", "It is fine, and it stays so."),)),
    (
        "rare-language",
        (chat("날씨가 어떻습니까?", "날씨가 아주 좋습니다. 이번 주 내내 그렇습니다."),),
        (),
    ),
    ("rare-language", (chat("天气怎么样？", "今天的天气很好，这个星期都会这样。"),), ()),
    (
        "length-outlier",
        answered(ANSWER[:-1] + " which is why all of us went" * 30 + " home."),
        answered(ANSWER + " " + ANSWER),
    ),
    # repeats
    ("duplicate", (chat(QUESTION, ANSWER),) * 2, (chat(QUESTION, ANSWER),)),
    ("near-duplicate", (chat(QUESTION * 3, ANSWER * 2), chat(QUESTION * 3 + "!", ANSWER * 2)), ()),
    (
        "contradiction",
        (chat(QUESTION, ANSWER), chat(QUESTION, "It is not fine, and it rains.")),
        (
            chat(QUESTION, ANSWER),
            chat("And how is it on the other side?", "It is not fine, and it rains."),
        ),
    ),
    (
        "chat-warning",
        (
            {
                "messages": [
                    *chat(QUESTION, ANSWER)["messages"],
                    {"role": "user", "content": "And now?"},
                ]
            },
        ),
        (),
    ),
]
IDS = [f"{rule}-{number}" for number, (rule, _, _) in enumerate(CASES)]


@pytest.mark.parametrize(("rule", "planted", "sound"), CASES, ids=IDS)
def test_a_rule_finds_what_was_planted_and_only_that(
    tmp_path: Path, rule: str, planted: tuple[Row, ...], sound: tuple[Row, ...]
) -> None:
    rows = clean()
    report = lint(tmp_path, [*rows, *planted])
    assert found(report).get(rule) == [60 + len(planted)]  # the last row
    (finding,) = [f for f in report.findings if f.rule == rule]
    assert finding.rows == 1 and finding.severity == RULES[rule].severity
    assert rule not in found(lint(tmp_path, [*rows, *sound]))


@pytest.mark.parametrize("rows", [clean(), clean_japanese()], ids=["en", "ja"])
def test_sound_rows_have_no_finding(tmp_path: Path, rows: list[Row]) -> None:
    assert found(lint(tmp_path, rows)) == {}


# --- rules of many rows ---------------------------------------------------------------------------


def labelled(*counts: int, labels: str = "abcdefgh") -> list[Row]:
    words = [label for label, count in zip(labels, counts, strict=False) for _ in range(count)]
    return [
        chat(row["messages"][0]["content"], w)
        for row, w in zip(clean(len(words)), words, strict=True)
    ]


WHOLE: list[tuple[str, list[Row], list[Row], dict[str, Any]]] = [
    ("label-imbalance", labelled(90, 5, 5), labelled(40, 30, 30), {}),
    ("label-imbalance", labelled(60), labelled(30, 30), {}),
    ("rare-label", labelled(30, 30, 2), labelled(30, 30, 10), {}),
    (
        "label-variants",
        [
            *labelled(30, 30),
            chat("Of which class is it?", "A."),
        ],
        [*labelled(30, 30), chat("Of which class is it?", "c")],
        {},
    ),
    (
        "mixed-width",
        [*clean_japanese(), chat(JAPANESE, "それは、３月からはじまったからです。")],
        [*clean_japanese(), chat(JAPANESE, "それは、3月からはじまったからです。")],
        {},
    ),
    (
        "mixed-width",
        [
            *(
                [
                    chat(r["messages"][0]["content"].replace("1", "１"), "はい、そうです。")
                    for r in clean_japanese()
                ]
            )
        ],
        clean_japanese(),
        {},
    ),
    (
        "mixed-punctuation",
        [*clean_japanese(), chat(JAPANESE, "それは，冬からはじまったからです．")],
        clean_japanese(),
        {},
    ),
    (
        "same-ending",
        [
            chat(r["messages"][0]["content"], r["messages"][1]["content"] + " I hope this helps!")
            for r in clean()
        ],
        clean(),
        {},
    ),
    (
        "some-without-system",
        [*clean(system="You help."), chat(QUESTION, ANSWER)],
        [*clean(system="You help."), chat(QUESTION, ANSWER, "You help.")],
        {},
    ),
    (
        "empty-system",
        [*clean(), chat(QUESTION, ANSWER, "  ")],
        [*clean(), chat(QUESTION, ANSWER)],
        {},
    ),
    (
        "system-variants",
        [*clean(system="You help."), chat(QUESTION, ANSWER, "You  help")],
        clean(system="You help."),
        {},
    ),
    (
        "system-variants",
        [*clean(system="You help."), chat(QUESTION, ANSWER, "You are Taro.")],
        [*clean(30, system="You help."), *clean(30, system="You are Taro.", seed=2)],
        {},
    ),
    (
        "too-long",
        [*clean(), chat(QUESTION, ANSWER + " " + ANSWER * 2)],
        clean(),
        {"max_characters": 190},
    ),
    ("few-rows", clean(9), clean(50), {}),
]


@pytest.mark.parametrize(
    ("rule", "planted", "sound", "options"),
    WHOLE,
    ids=[f"{case[0]}-{number}" for number, case in enumerate(WHOLE)],
)
def test_what_only_many_rows_show(
    tmp_path: Path, rule: str, planted: list[Row], sound: list[Row], options: dict[str, Any]
) -> None:
    assert rule in found(lint(tmp_path, planted, **options))
    assert rule not in found(lint(tmp_path, sound, **options))


LEAKS = ("leak-row", "leak-prompt", "leak-near")


def test_ends_without_a_stop_are_nothing_where_they_are_usual(tmp_path: Path) -> None:
    rows = [
        chat(r["messages"][0]["content"], r["messages"][1]["content"].rstrip(".")) for r in clean()
    ]
    assert "cut-answer" not in found(lint(tmp_path, [*rows[:20], *clean(seed=4)[:40]]))


def test_the_same_answer_again_is_no_contradiction(tmp_path: Path) -> None:
    longer = {
        "messages": [*chat(QUESTION, ANSWER)["messages"], {"role": "user", "content": "And?"}]
    }
    assert "contradiction" not in found(lint(tmp_path, [*clean(), chat(QUESTION, ANSWER), longer]))


def test_every_rule_has_a_test() -> None:
    tested = {case[0] for case in CASES} | {case[0] for case in WHOLE} | set(LEAKS)
    assert tested == set(RULES)


def test_the_numbers_of_an_imbalance_are_those_of_the_textbook(tmp_path: Path) -> None:
    report = lint(tmp_path, labelled(96, 2, 2))
    (finding,) = [f for f in report.findings if f.rule == "label-imbalance"]
    assert finding.facts["largest"] == "a" and finding.facts["largest_share"] == 0.96
    # -(0.96 log2 0.96 + 2 * 0.02 log2 0.02)
    assert finding.facts["entropy_bits"] == pytest.approx(0.282294, abs=1e-5)
    assert report.files[0].numbers["labels"]["counts"] == {"a": 96, "b": 2, "c": 2}


def test_answers_in_another_language_on_purpose_are_a_note_without_rows(tmp_path: Path) -> None:
    rows = [chat(row["messages"][0]["content"], KOTAE + str(n)) for n, row in enumerate(clean())]
    (finding,) = [f for f in lint(tmp_path, rows).findings if f.rule == "other-language"]
    assert (finding.severity, finding.rows, finding.places) == ("note", 60, [])


# --- between files --------------------------------------------------------------------------------


LONG = "The old boat of the fisherman lies upside down behind his house, where children play."


def leaking(tmp_path: Path) -> tuple[Path, Path]:
    shared = clean(3, seed=9)
    train = [*clean(), *shared, chat(QUESTION, ANSWER), chat(f"x {LONG}?", LONG)]
    test = [
        *clean(seed=5),
        shared[1],
        chat(QUESTION, "Something else, and it is so."),
        chat(f"y {LONG}?", LONG),
    ]
    return write(tmp_path, train, "train.jsonl"), write(tmp_path, test, "test.jsonl")


def test_leaks_are_told_in_the_later_file_and_against_in_the_linted_one(tmp_path: Path) -> None:
    train, test = leaking(tmp_path)
    both = lint_files([train, test])
    assert [f.rule for f in both.files[0].findings] == []
    lines = {f.rule: [place.line for place in f.places] for f in both.files[1].findings}
    assert lines == {"leak-row": [61], "leak-prompt": [62], "leak-near": [63]}
    assert f"{train}:62" in both.files[1].findings[0].places[0].shown
    against = lint_files([train], against=[test])
    lines = {f.rule: [place.line for place in f.places] for f in against.findings}
    assert lines == {"leak-row": [62], "leak-prompt": [64], "leak-near": [65]}
    alone = lint_files([train], against=[write(tmp_path, clean(seed=77), "other.jsonl")])
    assert alone.findings == []


def test_repeats_within_a_file_that_is_only_compared_with_are_not_told(tmp_path: Path) -> None:
    mine = write(tmp_path, clean(), "mine.jsonl")
    other = write(tmp_path, [*clean(seed=5), *clean(seed=5)], "other.jsonl")
    assert lint_files([mine], against=[other]).findings == []


# --- counts and places ----------------------------------------------------------------------------


def test_rows_are_counted_without_bound_and_places_with_one(tmp_path: Path) -> None:
    rows = [chat(f"{n}", f" {n}\u200b ") for n in range(MAX_PLACES + 50)]
    report = lint(tmp_path, rows, near_threshold=None)
    for rule in ("outer-space", "invisible-characters"):
        (finding,) = [f for f in report.findings if f.rule == rule]
        assert finding.rows == MAX_PLACES + 50
        assert len(finding.places) == MAX_PLACES and finding.hidden == 50


def test_a_row_with_two_places_is_one_row(tmp_path: Path) -> None:
    report = lint(tmp_path, [*clean(), chat(f" {QUESTION}", f" {ANSWER}")])
    (finding,) = report.findings
    assert (finding.rule, finding.rows, finding.hidden) == ("outer-space", 1, 0)
    assert [place.path for place in finding.places] == [
        "messages[0].content",
        "messages[1].content",
    ]


def test_a_skipped_rule_is_silent(tmp_path: Path) -> None:
    rows = [*clean(), chat(QUESTION, f" {ANSWER}")]
    assert found(lint(tmp_path, rows, skip=["outer-space"])) == {}


def test_faulty_rows_are_in_the_report_and_their_lines_are_right(tmp_path: Path) -> None:
    path = write(tmp_path, clean(5))
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2:2] = ["{broken", ""]
    path.write_text("\n".join([*lines, *lines]) + "\n", encoding="utf-8")
    report = lint_files([path])
    assert (report.files[0].rows, report.files[0].faulty_rows) == (10, 2)
    assert found(report)["duplicate"] == [8, 9, 12, 13, 14]


# --- any file at all ------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.builds(
                lambda q, a: json.dumps(chat(q, a)).encode(),
                st.text(max_size=40),
                st.text(st.sampled_from("(「`[{<|:#*.。!ー a1\n縺Ã¤é"), max_size=60),
            ),
        ),
        max_size=6,
    )
)
def test_any_bytes_are_linted_or_refused_with_faults(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("any") / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    try:
        report = lint_files([path])
    except TanrenError as error:
        assert error.faults and error.exit_code == 2
        return
    (file,) = report.files
    assert file.rows + file.faulty_rows == sum(
        bool(x.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r"))
        for x in b"\n".join(lines).split(b"\n")
    )
    json.dumps(report.as_dict(), allow_nan=False)
    assert all(0 < finding.rows <= file.rows for finding in file.findings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is the name of the river?", "en"),
        ("Maria paid la Caixa thirty euros, half earlier.", ""),
        ("La casa de la que nos ha hablado es para los demás.", "other"),
        ("東京タワーはどこですか", "ja"),
        ("ＪＲ東日本旅客鉄道株式会社", ""),
        ("我们今天去看电影", "zh"),
        ("안녕하세요 여러분", "ko"),
        ("Привет, как твои дела?", "other"),
        ("```python\nfor x in y: print(x)\n```\nこれでよいです", "ja"),
        ("42", ""),
    ],
)
def test_languages_by_script_and_small_words(text: str, expected: str) -> None:
    assert language(text) == expected


def test_two_styles_of_punctuation_that_are_both_usual_are_no_finding(tmp_path: Path) -> None:
    western = [
        chat(r["messages"][0]["content"], r["messages"][1]["content"].replace("、", "，"))
        for r in clean_japanese(30, seed=8)
    ]
    assert "mixed-punctuation" not in found(lint(tmp_path, [*clean_japanese(30), *western]))
