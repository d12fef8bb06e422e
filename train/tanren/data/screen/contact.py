"""How a person is reached: e-mail addresses, phone numbers; and public IP addresses. All texts are
folded.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from tanren.data.screen.findings import Finding
from tanren.data.screen.identity import is_other_number
from tanren.errors import ConfigError, Fault

# --- e-mail ---------------------------------------------------------------------------------------

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(
    rf"(?<![A-Za-z0-9.@])((?:{_ATOM}|(?<={_ATOM})\.(?={_ATOM})){{1,64}})@((?:{_LABEL}\.)+"
    r"(?:[A-Za-z]{2,18}|xn--[A-Za-z0-9-]{2,59}))(?![A-Za-z0-9_@]|-[A-Za-z0-9]|\.[A-Za-z0-9])"
)
_SPELLED = re.compile(
    r"(?<![A-Za-z0-9.])[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\s?[\[({]\s?(?i:at|アット)\s?[\])}]\s?"
    r"[A-Za-z0-9-]+(?:(?:\.|\s?[\[({]\s?(?i:dot|ドット)\s?[\])}]\s?)[A-Za-z0-9-]+)+"
    r"|(?<![A-Za-z0-9.])[A-Za-z0-9][A-Za-z0-9._+-]{0,63} at [A-Za-z0-9-]+(?: dot [a-z0-9-]+)* dot "
    r"(?:com|org|net|edu|io|dev|jp|example)(?![A-Za-z0-9])"
)
_LEADING = "\"'`*_={|}#$%&!/?^~+-"
_FILE_ENDINGS = frozenset({"png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css", "html", "tgz"})
_KNOWN_DOMAINS = frozenset({"com", "org", "net", "jp", "edu", "gov", "example", "uk", "io"})
_CODE_OWNERS = frozenset({"self", "cls", "this", "np", "torch"})
_URL_USER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/@]*$")


def find_emails(text: str) -> Iterator[Finding]:
    """Addresses of RFC 5321's plain form with a top-level domain of letters, and those spelled as
    "taro [at] example.com". Not quoted local parts, and no domains in other scripts.
    """
    if "@" in text:
        for match in _EMAIL.finditer(text):
            start = match.start() + _led_by(match[1])
            if start < match.end(1) and not _is_no_address(text, match, start):
                yield Finding("email", start, match.end(), "address")
    for match in _SPELLED.finditer(text):
        yield Finding("email", match.start(), match.end(), "spelled out")


def _led_by(local: str) -> int:
    """Marks that may stand in a local part and before it are taken for what stands before it. An
    assignment's left side (`mail=taro`) does not belong to the address either.
    """
    cut = max(local.rfind(mark) for mark in "=`|{}/") + 1
    return cut + len(local[cut:]) - len(local[cut:].lstrip(_LEADING))


def _is_no_address(text: str, match: re.Match[str], start: int) -> bool:
    domain = match[2]
    last = domain.rpartition(".")[2]
    if domain.split(".")[0] in _CODE_OWNERS or last in _FILE_ENDINGS:
        return True
    if text[match.end() : match.end() + 1] == "(" and last.lower() not in _KNOWN_DOMAINS:
        return True  # `q@k.transpose(...)`: a product of matrices
    before = text[max(0, start - 80) : start]
    if _URL_USER.search(before) and not before.endswith("mailto://"):
        return True  # user:password@host: the password is a secret, the host no address
    after = text[match.end() : match.end() + 2]
    return text[start : match.end(1)] == "git" and after[:1] == ":" and after[1:2] != " "


# --- phone ----------------------------------------------------------------------------------------

_INTERNATIONAL = re.compile(r"(?<![0-9A-Za-z+])\+[0-9](?:[ ]?[-.()]{0,2}[ ]?[0-9]){6,14}")
_JAPANESE = re.compile(
    r"(?<![0-9A-Za-z_.])(?<![0-9A-Za-z][-/+])\(?0[0-9]{1,4}(?:\)[ -]?|[ -]|\()"
    r"[0-9]{1,4}(?:\)[ -]?|[ -])[0-9]{3,4}(?![0-9A-Za-z_])(?![-./:][0-9])"
)
_DOTTED = re.compile(
    r"(?<![0-9A-Za-z_.])(?:0[0-9]{1,3}\.[0-9]{3,4}|[2-9][0-9]{2}\.[2-9][0-9]{2})\.[0-9]{4}"
    r"(?![0-9A-Za-z_])(?!\.[0-9])"
)
_MOBILE = re.compile(r"(?<![0-9A-Za-z_.])(?<![0-9A-Za-z][-/+])0[5789]0[0-9]{8}(?![0-9A-Za-z_])")
_BARE = re.compile(r"(?<![0-9A-Za-z_.])[0-9]{10}(?![0-9A-Za-z_])")
_AMERICAN = re.compile(
    r"(?<![0-9A-Za-z_.])(?<![0-9A-Za-z][-/+])(?:1[ -])?(?:\([2-9][0-9]{2}\)[ ]?|[2-9][0-9]{2}[- ])"
    r"[2-9][0-9]{2}[- ][0-9]{4}(?![0-9A-Za-z_])(?![-./][0-9])"
)
_LOCAL = re.compile(r"(?<![0-9A-Za-z_.+-])[2-9][0-9]{2}-[0-9]{4}(?![0-9A-Za-z_])(?!-[0-9])")
_PHONE_WORD = re.compile(
    r"(?:(?i:\b(?:tel|phone|telephone|fax|mobile|cell|call|whatsapp|text)\b)|電話|携帯|連絡先|"
    r"ファックス|FAX|TEL)[^0-9\n]{0,16}$"
)
_LOOK_BACK = 30


def find_phones(text: str) -> Iterator[Finding]:
    """Numbers that Google's libphonenumber calls valid, in forms that people write.

    A bare ten-digit number and a local American one need a word such as "tel" before them.
    """
    for match in _INTERNATIONAL.finditer(text):
        shown = match[0].rstrip(" ")
        for end in _group_ends(shown):
            if is_valid(shown[:end], None):
                yield Finding("phone", match.start(), match.start() + end, "international")
                break
    for pattern, region, rule in (
        (_JAPANESE, "JP", "Japanese"),
        (_MOBILE, "JP", "Japanese mobile"),
        (_AMERICAN, "US", "American"),
    ):
        yield from _valid_of(pattern, region, rule, text)
    for match in _DOTTED.finditer(text):
        if is_valid(match[0], "JP" if match[0].startswith("0") else "US"):
            yield Finding("phone", match.start(), match.end(), "dotted")
    yield from _beside_a_word(text)


def _group_ends(shown: str) -> Iterator[int]:
    """Where an international number may end: what follows it may be digits of something else."""
    yield len(shown)
    for match in reversed(list(re.finditer(r"[0-9](?=[ ])", shown))):
        yield match.end()


def _valid_of(pattern: re.Pattern[str], region: str, rule: str, text: str) -> Iterator[Finding]:
    for match in pattern.finditer(text):
        start, shown = match.start(), match[0]
        if shown.startswith("(") and ")" not in shown:
            start, shown = start + 1, shown[1:]
        if is_valid(shown, region) and not is_other_number(text, start):
            yield Finding("phone", start, match.end(), rule)


def _beside_a_word(text: str) -> Iterator[Finding]:
    for match in _BARE.finditer(text):
        region = "JP" if match[0].startswith("0") else "US"
        if _named(text, match.start()) and is_valid(match[0], region):
            yield Finding("phone", match.start(), match.end(), "bare beside a word")
    for match in _LOCAL.finditer(text):
        if _named(text, match.start()):
            yield Finding("phone", match.start(), match.end(), "local beside a word")


def _named(text: str, start: int) -> bool:
    return _PHONE_WORD.search(text[max(0, start - _LOOK_BACK) : start]) is not None


def is_valid(shown: str, region: str | None) -> bool:
    """ConfigError if phonenumbers is not installed."""
    try:
        import phonenumbers
    except ImportError:
        raise ConfigError.of(missing("phonenumbers")) from None
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(shown, region))
    except phonenumbers.NumberParseException:
        return False


def missing(package: str) -> Fault:
    """The fault of an optional package that is not installed."""
    return Fault("screening", f"no {package}", package, 'pip install "tanren[data]"')


# --- IP addresses ---------------------------------------------------------------------------------

_IPV4 = re.compile(
    r"(?<![0-9A-Za-z_.])(?<![0-9A-Za-z][-/+])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9A-Za-z_])(?!\.[0-9])"
)
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![0-9A-Za-z:])")
_VERSION_WORD = re.compile(
    r"(?:\b(?i:version|ver\.?|v|release|build)|バージョン|==|>=|<=|~=|@)\s*:?\s*$"
)


def find_ip_addresses(text: str) -> Iterator[Finding]:
    """Addresses that the public network routes; not private, loopback or documentation ones."""
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            before = text[max(0, match.start() - 20) : match.start()]
            if _is_public(match[0]) and not _VERSION_WORD.search(before):
                yield Finding("ip", match.start(), match.end(), "public address")


def _is_public(shown: str) -> bool:
    try:
        return ipaddress.ip_address(shown).is_global
    except ValueError:
        return False
