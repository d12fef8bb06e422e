"""Postal codes and addresses, best effort: what a parcel needs, not every mention of a town. All
texts are folded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tanren.data.screen.findings import Finding

_PREFECTURE = (
    "(?:北海道|東京都|(?:大阪|京都)府|(?:青森|岩手|宮城|秋田|山形|福島|茨城|栃木|群馬|埼玉|千葉|神奈川|"
    "新潟|富山|石川|福井|山梨|長野|岐阜|静岡|愛知|三重|滋賀|兵庫|奈良|和歌山|鳥取|島根|岡山|広島|山口|"
    "徳島|香川|愛媛|高知|福岡|佐賀|長崎|熊本|大分|宮崎|鹿児島|沖縄)県)"
)
_NAME = "[\u3041-\u3096\u30a1-\u30fc\u3400-\u9fff々ヶケノ]"
_DIGIT = "[0-9〇一二三四五六七八九十百]"
_BLOCK = (
    rf"(?:{_DIGIT}{{1,4}}丁目"
    rf"(?:[ ]?{_DIGIT}{{1,5}}(?:番地?|-)?(?:[ ]?の?[ ]?{_DIGIT}{{1,4}}(?:号)?)?)?"
    rf"|{_DIGIT}{{1,5}}番(?![町街])地?(?:の?{_DIGIT}{{1,4}}号?)?"
    r"|(?!(?:19|20)[0-9]{2}-)[0-9]{1,4}-[0-9]{1,4}(?:-[0-9]{1,4}){0,2})"
)
_BUILDING = (
    rf"(?:[ ]?(?!の)(?:{_NAME}|[A-Za-z])(?:{_NAME}|[A-Za-z0-9]){{0,14}}?"
    r"(?:ビルディング|ビル|マンション|荘|ハイツ|タワー|アパート|コーポ|レジデンス|ハウス)"
    r"(?:[ ]?[0-9A-Z-]{1,5}(?:号室|号|階|F)?)?|[ ][0-9]{1,4}(?:号室|号|階|F))?"
)
_KANA_TOWN = "(?:さいたま|つくば|つくばみらい|いわき|ひたちなか|かすみがうら|うるま|みどり|みよし)"
_IN_PREFECTURE = re.compile(
    rf"{_PREFECTURE}[ ]?{_NAME}{{1,8}}?[市区町村郡](?:[ ]?(?:{_NAME}|[0-9]{{1,2}}条)){{0,18}}?"
    rf"[ ]?{_BLOCK}{_BUILDING}"
)
_IN_TOWN = re.compile(
    rf"(?:(?<=[はがにのを、。:「『( \n])|^)(?!{_PREFECTURE})"
    rf"(?:[\u3400-\u9fff々ヶケ]{{1,5}}?|{_KANA_TOWN})[市区]"
    rf"(?:{_NAME}){{1,12}}?[ ]?{_BLOCK}{_BUILDING}"
)
_CODE = re.compile(r"(?<![0-9A-Za-z_-])[0-9]{3}-?[0-9]{4}(?![0-9A-Za-z_])(?!-[0-9])")
_CODE_BEFORE = re.compile(r"(?:〒|(?:郵便番号|(?i:postal code|postcode|zip))\s*(?:は|is|:|=)?)\s*$")
_CODE_AFTER = re.compile(rf"\s{{0,3}}{_PREFECTURE}")
_STREETS = (
    "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Terrace|Parkway|Pkwy"
)
_AMERICAN = re.compile(
    r"(?<![0-9A-Za-z.,$-])[0-9]{1,5} (?:[NSEW]\.? )?(?:[A-Z][a-z]+ |[0-9]{1,3}(?:st|nd|rd|th) )"
    rf"{{1,3}}(?:{_STREETS})\b\.?"
    r"(?:,? (?:Apt|Suite|Ste|Unit|Floor)\.? ?#?[0-9A-Za-z-]{1,5}\b|,? #[0-9]+)?"
    r"(?:, [A-Z][A-Za-z]+(?: [A-Z][a-z]+){0,2}(?:, [A-Z]{2}\b)?(?: [0-9]{5}(?:-[0-9]{4})?\b)?)?"
)


def find_places(text: str) -> Iterator[Finding]:
    for match in _CODE.finditer(text):
        before = text[max(0, match.start() - 20) : match.start()]
        marked = _CODE_BEFORE.search(before)
        if marked or ("-" in match[0] and _CODE_AFTER.match(text, match.end())):
            sign = len(before) - before.rfind("〒") if marked and "〒" in marked[0] else 0
            yield Finding("postal_code", match.start() - sign, match.end(), "postal code")
    for pattern, rule in (
        (_IN_PREFECTURE, "Japanese, with prefecture"),
        (_IN_TOWN, "Japanese, without prefecture"),
        (_AMERICAN, "American street"),
    ):
        for match in pattern.finditer(text):
            end = match.start() + len(match[0].rstrip(" ,"))
            yield Finding("address", match.start(), end, rule)
