"""UTF-8 that was read in another encoding: found by its signs, proven by reading it back.

`こ` is e3 81 93 in UTF-8; read as CP932 that is `縺` and half of the next character, read as CP1252
`ã`, an unassigned byte and `“`. A run is mended only when it goes back to bytes without loss and
these are UTF-8 without a fault, which other text hardly ever is.
"""

from __future__ import annotations

import re

# The first bytes of kana and common kanji (e3 80 to e9), each with what follows it, as CP932 has
# them; and those of Latin letters, punctuation and kana, as CP1252 and Latin-1 have them.
_CP932_SIGN = re.compile("[縺繧繝縲]|[荳莠蛻蜷蟄蠎譁譛豁逕邨隱驕髢][\uff61-\uff9f\u4e00-\u9fff]")
# What the bytes 80 to bf are in CP1252, and in Latin-1 where that has them.
_TAIL = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
# Two bytes begin with Â or Ã, or with others if more follow: a sentence may end in `É…`.
_WESTERN_SIGN = re.compile(
    f"[ÂÃ]{_TAIL}|(?:[\xc4-\xdf]{_TAIL}){{3}}|[\xe2-\xef]{_TAIL}{{2}}|\xf0{_TAIL}{{3}}"
)
_CP932_AS_WESTERN = re.compile("(?:[\x82\x83‚ƒ][^\\s]){2}")
# Signs that are left where a byte went missing and nothing can be proven.
_LOST_SIGN = re.compile(f"[縺繧繝][^\x00-\x7f]|[\xe2-\xef]{_TAIL}|[ÂÃ]{_TAIL}")
_FOREIGN_RUN = re.compile("[^\x00-\x7f]+")
_LIVING = re.compile(
    "[\xa0-\u052f\u0590-\u06ff\u0900-\u097f\u0e00-\u0e7f\u1e00-\u206f\u20a0-\u27bf\u3000-\u30ff"
    "\u4e00-\u9fff\uac00-\ud7a3\uff01-\uffee\ufe0f\U0001f300-\U0001faff]"
)
_DAMAGED = "\ufffd"


def mend_mojibake(text: str) -> str:
    """The text that was meant; what cannot be proven stays."""
    if text.isascii() or not has_signs(text):
        return text
    whole = _read_back(text)
    return whole if whole is not None else _FOREIGN_RUN.sub(_mend_run, text)


def has_signs(text: str) -> bool:
    return bool(
        _CP932_SIGN.search(text) or _WESTERN_SIGN.search(text) or _CP932_AS_WESTERN.search(text)
    )


def lost_characters(text: str) -> tuple[int, int] | None:
    """Where text is damaged and cannot be proven: U+FFFD, or dense signs of mojibake."""
    start = text.find(_DAMAGED)
    if start >= 0:
        return start, start + 1
    signs = list(_LOST_SIGN.finditer(text))
    if len(signs) >= 3:
        return signs[0].start(), signs[-1].end()
    return None


def _mend_run(match: re.Match[str]) -> str:
    run = match[0]
    if not has_signs(run):
        return run
    mended = _read_back(run)
    return run if mended is None else mended


def _read_back(text: str) -> str | None:
    for misread, meant in (("cp932", "utf-8"), ("cp1252", "utf-8"), ("cp1252", "cp932")):
        data = _as_bytes(text, misread)
        if data is None:
            continue
        try:
            mended = data.decode(meant)
        except UnicodeDecodeError:
            continue
        if len(mended) >= len(text):
            continue
        if _is_plausible(mended, meant):
            return mended
        twice = _read_back(mended)  # misread, saved, and misread again
        if twice is not None:
            return twice
    return None


def _as_bytes(text: str, encoding: str) -> bytes | None:
    """The bytes that were read; None where a character cannot have come from them."""
    try:
        if encoding == "cp932":
            return text.encode("cp932")
        # The five bytes that CP1252 leaves open come through most readers as control characters.
        return b"".join(_western_byte(character) for character in text)
    except UnicodeEncodeError:
        return None


def _western_byte(character: str) -> bytes:
    code = ord(character)
    return bytes([code]) if code < 0x100 else character.encode("cp1252")


def _is_plausible(mended: str, meant: str) -> bool:
    """Only characters of today's scripts came out (縺れ髪, a word, would become あ and a letter of
    Vai); CP932, which takes most bytes, must give kana.
    """
    foreign = [character for character in mended if ord(character) > 0x7F]
    if not foreign or not all(map(_LIVING.match, foreign)):
        return False
    # `é»…` is French, and three bytes of a kanji: one character alone needs a telling first byte.
    if len(foreign) == 1 and foreign[0].encode("utf-8")[0] not in (0xC2, 0xC3, 0xE2, 0xE3, 0xEF):
        return False
    kana = sum("\u3041" <= character <= "\u30fe" for character in foreign)
    return meant == "utf-8" or kana >= max(2, 0.3 * len(foreign))
