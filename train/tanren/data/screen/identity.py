"""Numbers that stand for a person or their account. All texts are folded."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tanren.data.screen.findings import Finding
from tanren.data.screen.numbers import is_card, is_iban, is_my_number, is_ssn

_ALONE_BEFORE = r"(?<![0-9A-Za-z_.])(?<![0-9A-Za-z_][-/+])"
_ALONE_AFTER = r"(?![0-9A-Za-z_])(?![-./=][0-9A-Za-z])(?![+*×÷][0-9])"
_LONG = re.compile(rf"{_ALONE_BEFORE}[0-9](?:[ -]?[0-9]){{11,18}}{_ALONE_AFTER}")
_GROUPS = {
    13: ((13,),),
    14: ((14,), (4, 6, 4)),
    15: ((15,), (4, 6, 5)),
    16: ((16,), (4, 4, 4, 4)),
    17: ((17,),),
    18: ((18,),),
    19: ((19,), (4, 4, 4, 4, 3)),
}
_MY_NUMBER_GROUPS = ((12,), (4, 4, 4))
_SSN = re.compile(rf"{_ALONE_BEFORE}([0-9]{{3}})([- ])([0-9]{{2}})\2([0-9]{{4}}){_ALONE_AFTER}")
_IBAN = re.compile(
    r"(?<![0-9A-Za-z])[A-Z]{2}[0-9]{2}(?:[A-Z0-9]{11,27}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,4})?)"
    r"(?![0-9A-Za-z])"
)
_BESIDE = r"\s*(?:番号|No\.?|number|#)?\s*(?:is|は|が|:|=|#)?\s*"
_PASSPORT = re.compile(
    rf"(?i:パスポート|旅券|passport){_BESIDE}((?!(?i:no))[A-Z]{{2}}[0-9]{{7}})(?![0-9A-Za-z])"
)
_LICENCE = re.compile(
    r"(?i:運転免許証?|免許証|driver'?s? licen[cs]e)" + _BESIDE + r"([0-9]{12})(?![0-9A-Za-z])"
)
_OTHER_NUMBER = re.compile(
    r"(?i:order|invoice|tracking|ticket|isbn|imei|serial|sku|ref(?:erence)?|build|timestamp|"
    r"注文|受注|伝票|追跡|請求書|問い?合わ?せ|管理|商品|製造|会員|受付|整理|法人|登録|シリアル|バーコード|JANコード)"
    r"[ _-]*(?i:number|no\.?|id|code|番号|ナンバー|コード)?\s*(?:is|は|が|:|=|#|№)*[\s「『\"'(]*$"
)
_CARD_WORD = re.compile(r"(?i:card|visa|カード|クレジット)[^\n]{0,20}$")
_LOOK_BACK = 40


def is_other_number(text: str, start: int) -> bool:
    """Whether the words right before say that a number is an order's, a book's, a parcel's."""
    return _OTHER_NUMBER.search(text[max(0, start - _LOOK_BACK) : start]) is not None


def find_identities(text: str) -> Iterator[Finding]:
    yield from _long_numbers(text)
    for match in _SSN.finditer(text):
        if is_ssn(match[1], match[3], match[4]) and not is_other_number(text, match.start()):
            yield Finding("ssn", match.start(), match.end(), "ssn")
    for match in _IBAN.finditer(text):
        yield from _iban(match)
    for kind, pattern in (("passport", _PASSPORT), ("licence", _LICENCE)):
        for match in pattern.finditer(text):
            yield Finding(kind, match.start(1), match.end(1), f"{kind} beside its word")


def _long_numbers(text: str) -> Iterator[Finding]:
    for match in _LONG.finditer(text):
        groups = tuple(len(group) for group in re.split("[ -]", match[0]))
        digits = re.sub("[ -]", "", match[0])
        if not _even(match[0]) or is_other_number(text, match.start()):
            continue
        if len(digits) == 12 and groups in _MY_NUMBER_GROUPS and is_my_number(digits):
            yield Finding("my_number", match.start(), match.end(), "check digit")
        elif groups in _GROUPS.get(len(digits), ()) and is_card(digits):
            # Thirteen digits are a shop's bar code (Japan's begin with 45 and 49) far more often.
            before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
            if len(digits) == 13 and not _CARD_WORD.search(before):
                continue
            yield Finding("card", match.start(), match.end(), "luhn")


def _even(shown: str) -> bool:
    """Whether the groups are held apart by one and the same character."""
    return not (" " in shown and "-" in shown)


def _iban(match: re.Match[str]) -> Iterator[Finding]:
    """The match, or as much of it as is one: a word in capitals may follow."""
    shown = match[0]
    while len(shown) >= 15:
        if is_iban(shown.replace(" ", "")):
            yield Finding("iban", match.start(), match.start() + len(shown), "mod 97")
            return
        shown = shown.rpartition(" ")[0]
