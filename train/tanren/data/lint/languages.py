"""The language of a text by its scripts: Japanese, English, Chinese, Korean, or another.

Kana tells Japanese, Hangul Korean. Han characters alone may be a Japanese word or Chinese; Chinese
is only said where words stand that Japanese does not write so. Latin letters are English where
English words of two or three letters outnumber those of its neighbours.
"""

from __future__ import annotations

import re

LANGUAGES = ("", "en", "ja", "zh", "ko", "other")
"""By number, as rows keep them; "" where a text is too short or too mixed to tell."""

_READ_CHARACTERS = 400
_MIN_LETTERS = 4
_MIN_WORDS = 4
_MIN_HAN = 4
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|<<[^<>]*>>", re.DOTALL)
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa\u31f0-\u31ff\uff66-\uff9d]")
_HAN = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff々]")
_HANGUL = re.compile("[\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e]")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_OTHER = re.compile("[\u0370-\u10ff\u1200-\u1fff]")
_WORD = re.compile("[A-Za-z\u00c0-\u024f']+")
_CHINESE = re.compile("[们这说吗么呢吧她它很让对给过还为从个时间问题种电话见觉谢這嗎們沒說妳]")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ENGLISH = _words(
    "the of and to is are was in that it for on with as you he she they this have has had not be "
    "at by from his her how many what which who when why does did do can will would an or if i my "
    "your we there their than more each"
)
# Without those that are English words or names too (do, no, die, al, del, y).
_NEIGHBOURS = _words(
    "les des est une pour que qui pas sur avec je vous nous il la de en der das und ist nicht "
    "ein eine zu mit von ich auf für los las por para es su como más os um uma não em che di "
    "non sono gli della het een och att det som på är"
)


def language(text: str) -> str:
    """One of `LANGUAGES`, from the first 400 characters without code and addresses."""
    text = text[:_READ_CHARACTERS]
    if "`" in text or "://" in text or "<<" in text:
        text = _CODE.sub(" ", text)
    if text.isascii():
        return _of_latin(text)
    kana, han, hangul = (
        len(_KANA.findall(text)),
        len(_HAN.findall(text)),
        len(_HANGUL.findall(text)),
    )
    latin, other = len(_LATIN.findall(text)), len(_OTHER.findall(text))
    # A character of these scripts says about as much as two or three Latin letters.
    weighed = {"ja": 2.5 * (kana + han) if kana else 0.0, "ko": 2.5 * hangul, "other": 1.0 * other}
    if not kana:
        weighed["zh"] = 2.5 * han
    best = max(weighed, key=lambda name: weighed[name])
    if weighed[best] < latin:
        return _of_latin(text)
    if best == "zh":
        return "zh" if han >= _MIN_HAN and _CHINESE.search(text) else ""
    found = {"ja": kana + han, "ko": hangul, "other": other}[best]
    return best if found >= _MIN_LETTERS else ""


def _of_latin(text: str) -> str:
    words = _WORD.findall(text.lower())
    if len(words) < _MIN_WORDS:
        return ""
    english = len([word for word in words if word in _ENGLISH])
    others = len([word for word in words if word in _NEIGHBOURS])
    accented = 0 if text.isascii() else len([word for word in words if not word.isascii()])
    if english > others:
        return "en"
    # Names (Al, Del, Let, La) stand in English sums; three such words are no accident.
    return "other" if others >= max(3, english + 1) or accented > 0.2 * len(words) else ""
