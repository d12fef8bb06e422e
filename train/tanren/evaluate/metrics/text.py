"""Text as metrics see it: one normal form, the writing system, and words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from tanren.evaluate.metrics.base import missing_extra

Script = Literal["japanese", "chinese", "korean", "other"]

FINAL_PUNCTUATION = ".。｡、､,!?…:：;；"
"""After NFKC, so the full-width forms of ASCII are in it."""

_KANA = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff々]")
_HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
_WORD = re.compile(r"[^\W_]+")


def normalised(text: str) -> str:
    """NFKC (full-width letters and digits become plain ones), case folded, each run of white space
    one space, no space at the ends, no punctuation at the end.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.rstrip(FINAL_PUNCTUATION + " ")


def script_of(texts: Iterable[str]) -> Script:
    """What the texts together are written in. Japanese where at least a twentieth of the East Asian
    signs are kana (short labels may have none), East Asian at all where these are at least a fifth
    of the letters, since technical Japanese is full of Latin words.
    """
    whole = unicodedata.normalize("NFKC", "\n".join(texts))
    kana, han, hangul = (len(p.findall(whole)) for p in (_KANA, _HAN, _HANGUL))
    letters = sum(character.isalpha() for character in whole)
    if letters == 0 or (kana + han + hangul) / letters < 0.2:
        return "other"
    if hangul > kana + han:
        return "korean"
    return "japanese" if kana >= 0.05 * (kana + han) else "chinese"


def words(text: str) -> list[str]:
    """Runs of letters and digits, NFKC and case folded; no punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def characters(text: str) -> list[str]:
    """Letters and digits one by one, NFKC and case folded; no punctuation and no white space."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [character for character in plain if character.isalnum()]


def mecab_words(text: str) -> list[str]:
    """MeCab's words with the IPA dictionary, as sacrebleu's `ja-mecab` cuts them; no punctuation.

    ConfigError where the `eval` extra is not installed.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    tokens = _mecab()(plain).split()
    return [token for token in tokens if any(character.isalnum() for character in token)]


@lru_cache(maxsize=1)
def _mecab():  # type: ignore[no-untyped-def]  # sacrebleu's tokenizer, imported late
    require_mecab("words of Japanese text")
    from sacrebleu.tokenizers.tokenizer_ja_mecab import TokenizerJaMecab

    return TokenizerJaMecab()


def require_mecab(what_for: str) -> None:
    """ConfigError where sacrebleu, MeCab or its dictionary is missing."""
    from importlib.util import find_spec

    for package in ("sacrebleu", "MeCab", "ipadic"):
        if find_spec(package) is None:
            raise missing_extra(package, what_for)
