"""All rules over one text, behind signs that are cheap to look for."""

from __future__ import annotations

import re

from tanren.data.screen.contact import find_emails, find_ip_addresses, find_phones, is_valid
from tanren.data.screen.findings import Finding, without_overlaps
from tanren.data.screen.folding import folded
from tanren.data.screen.identity import find_identities
from tanren.data.screen.places import find_places
from tanren.data.screen.secrets import find_secrets, plugins
from tanren.errors import ConfigError, Fault

# Seven digits with what people put between them, an IP address of either protocol, or an American
# house number: outside of Japanese addresses every number that any rule finds holds one of these.
# It starts with a digit, so that the scan stays in C until there is one.
_NUMBER = re.compile(
    r"[0-9０-９](?:"
    r"(?:[-ー－−‐-―.() 　（）・/]{0,3}[0-9０-９]){6}"
    r"|[0-9]{0,2}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]"
    r"|[0-9a-fA-F]{3}:[0-9a-fA-F]{0,4}:"
    r"|[0-9]{0,4} (?:[NSEW]\.? )?(?:[A-Z][a-z]+ |[0-9]+(?:st|nd|rd|th) ){1,3}"
    r"(?:St|Av|R|B|L|D|C|T|P)"
    r")"
)
_BLOCK = re.compile(r"[0-9０-９](?:[-ー－−‐-―]|番)[0-9０-９]")
_LONG_RUN = re.compile(r"[A-Za-z0-9_+/-]{20}")
_NAMES = (
    "passw",
    "passc",
    "passp",
    "pwd",
    "pw ",
    "pw:",
    "pw=",
    "pw\\",
    'pw"',
    "pw'",
    "secret",
    "token",
    "api key",
    "api_key",
    "api-key",
    "apikey",
    "_key",
    "credential",
    "private key",
    "pin ",
    "pin:",
    "パスワード",
    "パスコード",
    "暗証番号",
    "シークレット",
    "トークン",
    "apiキー",
)


_COARSE_NAMES = (
    "pass", "pw", "secret", "token", "key", "credential", "pin ", "pin:",
    "パス", "暗証", "シークレット", "トークン", "apiキー",
)  # fmt: skip
_SPELLED_AT = ("at]", "at ]", "at)", "at }", "at}", "at )", " dot ", "アット")
"""Ends of `[at]` in all its brackets and spaces, and " dot com"."""
_SIGNS = (*_COARSE_NAMES, *_SPELLED_AT)


def may_hold(text: str) -> bool:
    """Whether any rule can find anything; a little oftener true than `find` finds, never false
    where it does. Right about JSON too, if it has no \\u and \\/ in it.
    """
    if "@" in text or "＠" in text or _LONG_RUN.search(text) is not None or _has_number(text):
        return True
    lowered = text.lower()
    for sign in _SIGNS:  # a third faster than any(...), and this is where the time goes  # noqa: SIM110
        if sign in lowered:
            return True
    return False


def _has_number(text: str) -> bool:
    if _NUMBER.search(text) is not None:
        return True
    return not text.isascii() and _has_block(text)


def _has_block(text: str) -> bool:
    """The end of a Japanese address: 1丁目, 2番地, 3番4号, 1-2-3."""
    if "丁目" in text or "番地" in text:
        return True
    return _BLOCK.search(text) is not None and any(mark in text for mark in "市区町村郡")


def require_packages() -> None:
    """ConfigError with every package that the rules need and do not find. Said at the start: a file
    without a single sign would need none, and the next one would.
    """
    faults: list[Fault] = []
    for asked in (plugins, lambda: is_valid("0", "JP")):
        try:
            asked()
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError.of(*faults)


def find(text: str) -> list[Finding]:
    """Secrets and personal data of a text, in order, without overlaps."""
    if not may_hold(text):
        return []
    lowered = text.lower()
    numbers = _has_number(text)
    mail = "@" in text or "＠" in text or any(sign in lowered for sign in _SPELLED_AT)
    secret = any(name in lowered for name in _NAMES) or _LONG_RUN.search(text) is not None
    plain = folded(text)
    found: list[Finding] = []
    if secret or "@" in plain:
        found += find_secrets(plain)
    if mail:
        found += find_emails(plain)
    if numbers:
        found += find_identities(plain)
        found += find_phones(plain)
        found += find_ip_addresses(plain)
        found += find_places(plain)
    return without_overlaps(found)
