"""Laws of a user's own word list."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.data.screen import read_words, word_list
from tanren.data.screen.words import fold_with_places
from tanren.errors import ConfigError


def found(words: list[str], text: str) -> list[str]:
    return [text[one.start : one.end] for one in word_list(words).find(text)]


@pytest.mark.parametrize(
    ("word", "text", "expected"),
    [
        ("frob", "Frob, FROB and frobnicate; unfrob", ["Frob", "FROB"]),
        ("frob", "ＦＲＯＢ！", ["ＦＲＯＢ"]),
        ("バカ", "このﾊﾞｶな話、バカげた", ["ﾊﾞｶ", "バカ"]),
        ("禁句", "それは禁句です。大禁句集", ["禁句", "禁句"]),
        ("two  words", "Two\nwords, two words; twowords", ["Two\nwords", "two words"]),
        ("straße", "STRASSE, Straße", ["STRASSE", "Straße"]),
        ("㌔", "五キロと五㌔", ["キロ", "㌔"]),
        ("が", "か\u3099と が", ["か\u3099", "が"]),
        ("c++", "C++ is, c++11 is not", ["C++", "c++"]),
        ("a.b", "axb a.b", ["a.b"]),
    ],
)
def test_width_case_and_spaces_do_not_hide_a_word(
    word: str, text: str, expected: list[str]
) -> None:
    assert found([word], text) == expected


def test_the_longer_word_wins() -> None:
    assert found(["frob", "frob nit"], "a frob nit and a frob") == ["frob nit", "frob"]


@given(st.text(max_size=30))
def test_every_folded_character_has_its_place(text: str) -> None:
    plain, places = fold_with_places(text)
    assert len(plain) == len(places)
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert list(places) == sorted(places)


def test_a_list_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "言葉.txt"
    path.write_text("\ufeff# not this\n\n Frob \n禁句\n", encoding="utf-8")
    assert set(read_words(path).words) == {"frob", "禁句"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"# nothing\n\n", "no word"),
        ("禁句".encode("cp932"), "UTF-8"),
        (b"x" * 300, "300 characters"),
        (None, "No such file"),
    ],
)
def test_a_list_that_is_none(content: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        read_words(path)
