"""Keys, tokens, passwords and private keys: shapes of today, and detect-secrets' own detectors.

detect-secrets is asked for what stands in a string (`analyze_string`), never to verify it: its
verification would send the secret to its owner's server. Two of its detectors are for source code
and loud in prose; here they need an assignment, and a value that is no word (`looks_random`).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from tanren.data.screen.contact import missing
from tanren.data.screen.findings import Finding
from tanren.errors import ConfigError

if TYPE_CHECKING:
    from detect_secrets.plugins.base import BasePlugin

_ALONE = r"(?<![0-9A-Za-z_])"
_SHAPES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(_ALONE + pattern))
    for name, pattern in (
        ("Anthropic", r"sk-ant-[a-z]+[0-9]{2}-[A-Za-z0-9_-]{20,}"),
        ("OpenRouter", r"sk-or-v1-[0-9a-f]{32,}"),
        ("OpenAI", r"sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,}"),
        ("OpenAI", r"sk-(?=[A-Za-z0-9]{0,40}[0-9])[A-Za-z0-9]{32,}(?![A-Za-z0-9_-])"),
        ("Hugging Face", r"(?:hf|api_org)_[A-Za-z0-9]{30,}"),
        ("GitHub", r"gh[pousr]_[A-Za-z0-9]{36,}"),
        ("GitHub", r"github_pat_[A-Za-z0-9]{20,}_[A-Za-z0-9]{20,}"),
        ("GitLab", r"gl(?:pat|dt|rt|ptt)-[A-Za-z0-9_-]{20,}"),
        ("AWS", r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Z0-9])"),
        ("Google", r"AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
        ("Google", r"GOCSPX-[A-Za-z0-9_-]{20,}"),
        ("Google", r"ya29\.[A-Za-z0-9_-]{20,}"),
        ("Slack", r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
        ("Slack", r"xapp-[0-9]-[A-Z0-9]{6,}-[0-9]{6,}-[A-Za-z0-9]{10,}"),
        ("Slack", r"https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9_/]{20,}"),
        ("Stripe", r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"),
        ("Stripe", r"whsec_[A-Za-z0-9]{20,}"),
        ("npm", r"npm_[A-Za-z0-9]{36}"),
        ("PyPI", r"pypi-AgEI[A-Za-z0-9_-]{30,}"),
        ("SendGrid", r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
        ("DigitalOcean", r"do[opr]_v1_[0-9a-f]{40,}"),
        ("Azure", r"(?<=AccountKey=)[A-Za-z0-9+/]{40,}={0,2}"),
        ("bearer token", r"(?<=[Bb]earer )(?=[A-Za-z._~+/-]{0,60}[0-9])[A-Za-z0-9._~+/-]{20,}=*"),
    )
)
_PEM = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:.*?-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s\\]*)",
    re.DOTALL,
)
_JWT = re.compile(
    _ALONE + r"(eyJ[A-Za-z0-9_-]{8,})\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*){0,3}(?![A-Za-z0-9_-])"
)
_URL_PASSWORD = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://[^\s:/@\"'<>]*:([^\s/\"'<>]{1,80})@(?=[\w\[])"
)
_NAME = (
    r"[A-Za-z0-9_.-]{0,40}?(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|api[_-]?key|_key|"
    r"credential|pw)s?[A-Za-z0-9_]{0,20}"
)
_ASSIGNED = re.compile(
    rf"(?<![A-Za-z0-9_])(?i:{_NAME})[\"'`\]]{{0,2}}[ ]?"
    r"(?:=>|:=|=|:|：)[ ]?[\"'`「]?([!-~]{6,200})"
)
_SAID = re.compile(
    r"(?:(?i:\b(?:password|passcode|pw|passphrase|pin|token|api key|secret key)\b)"
    r"[ ](?:is|was|to)[ ]"
    r"|(?:パスワード|パスコード|暗証番号|APIキー|シークレット|トークン)[ ]?(?:は|：|:|=|が|を)[ ]?)"
    r"[\"'`「『]?([!-~]{4,200})"
)
_CODE_IN_PROSE = re.compile(r"(?:暗証番号|(?i:\bpin\b))[^\n]{0,6}$")
_AFTER_VALUE = "\"'`,;.)]}>」!?"
_PLACEHOLDER = re.compile(
    r"^[\[<{(%$]|\.\.\.|…|\*{3}|x{4}|X{4}|0{6}|(?i:your|example|changeme|placeholder|redacted|dummy|"
    r"env\b|environ|getenv|insert|todo|null|none|true|false)|[({\[]"
)
_PLAIN = re.compile(r"[0-9]+[A-Za-z]{1,12}|v?[0-9.]+[a-z]?[0-9]*|[a-z]+_[a-z_]+[0-9]")
"""2weeks, v1.2.3, get_user1."""
_NAMED_DIGEST = re.compile(
    r"(?i:sha-?(?:1|256|384|512)?|md5|hash|digest|checksum|commit|revision|rev|etag|integrity|image|"
    r"uuid|guid|fingerprint|blake2?b?)[\"'`\]]{0,2}\s*[:=(-]?>?\s*$"
)
_QUOTED = re.compile(r"([\"'`])([A-Za-z0-9+/_=-]{20,200})\1")
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_SECRET_NAME = re.compile(
    r"(?i:key|token|secret|auth|credential|pass|salt|session|cookie|signature)\w{0,20}"
    r"[\"'`\]]{0,2}[ ]?(?:=>|:=|=|:|\()[ ]?$"
)


def find_secrets(text: str) -> Iterator[Finding]:
    """Every place of a secret in a folded text. ConfigError if detect-secrets is not installed."""
    for name, pattern in _SHAPES:
        for match in pattern.finditer(text):
            yield Finding("secret", match.start(), match.end(), name)
    for match in _PEM.finditer(text):
        yield Finding("secret", match.start(), match.end(), "private key")
    for match in _JWT.finditer(text):
        if _is_jwt_header(match[1]):
            yield Finding("secret", match.start(), match.end(), "JSON web token")
    for match in _URL_PASSWORD.finditer(text):
        if not _PLACEHOLDER.search(match[1]):
            yield Finding("secret", match.start(1), match.end(1), "password in an address")
    yield from _assigned(text)
    yield from _random_strings(text)
    yield from _library(text)


def _is_jwt_header(part: str) -> bool:
    """RFC 7515: the first part is a JSON object with `alg`."""
    try:
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return False
    return isinstance(value, dict) and "alg" in value


# --- values beside a telling name -----------------------------------------------------------------


def _assigned(text: str) -> Iterator[Finding]:
    for match in _ASSIGNED.finditer(text):
        value = _value(text, match).partition("&")[0]  # the next field of an address
        if len(value) >= 6 and looks_random(value):
            yield Finding("secret", match.start(1), match.start(1) + len(value), "assigned")
    for match in _SAID.finditer(text):
        value = _value(text, match)
        code = value.isdecimal() and _CODE_IN_PROSE.search(text[: match.start(1)][-12:])
        if (len(value) >= 6 and looks_random(value)) or (code and 4 <= len(value) <= 8):
            yield Finding("secret", match.start(1), match.start(1) + len(value), "said")


def _value(text: str, match: re.Match[str]) -> str:
    """What was assigned, up to its closing quote or without what ends the sentence."""
    value, opening = match[1], text[match.start(1) - 1]
    if opening in "\"'`" and opening in value:
        return value[: value.index(opening)]
    for end in ("\\n", '\\"', '"', "'", "`", ",", ";", "</"):
        value = value.partition(end)[0]
    return value.rstrip(_AFTER_VALUE)


def looks_random(value: str) -> bool:
    """Neither a word, nor a number, nor a place for a value, nor code that fetches one."""
    if _PLACEHOLDER.search(value) or not any(c.isdigit() for c in value):
        return False
    letters = sum(c.isalpha() for c in value)
    if letters < 2 or _is_name(value) or value.startswith(("/", "http://", "https://", "--")):
        return False
    return not re.fullmatch(
        r"[0-9]+[A-Za-z]{1,12}|v?[0-9.]+[a-z]?[0-9]*|[a-z]+_[a-z_]+[0-9]", value
    )


def _is_name(value: str) -> bool:
    """A name of a program, such as Token2WaveConfig: capitals and digits among whole words. Random
    letters and digits change their case after 1.7 small letters on average.
    """
    runs = re.findall("[a-z]+", value)
    capitals = sum(c.isupper() for c in value)
    return (
        capitals >= 3
        and re.fullmatch("[A-Za-z0-9_]+", value) is not None
        and sum(map(len, runs)) >= 2.5 * len(runs) > 0
    )


# --- random strings in code -----------------------------------------------------------------------


def _random_strings(text: str) -> Iterator[Finding]:
    """detect-secrets' entropy, only of quoted values; hexadecimal ones only under a telling name,
    because most of them are digests.
    """
    for match in _QUOTED.finditer(text):
        value, before = match[2], text[max(0, match.start() - 40) : match.start()]
        if _UUID.fullmatch(value) or _NAMED_DIGEST.search(before):
            continue
        if re.fullmatch("[0-9a-fA-F]+", value):
            random = len(value) >= 32 and _SECRET_NAME.search(before) and _entropy(value) > 3.0
        else:
            random = _is_mixed(value) and _entropy(value) > 4.3
        if random:
            yield Finding("secret", match.start(2), match.end(2), "random string")


def _is_mixed(value: str) -> bool:
    """Both cases and digits in between them, as base64 has them and names and paths have not."""
    digits = sum(c.isdigit() for c in value)
    return (
        digits >= 3
        and any(c.islower() for c in value)
        and any(c.isupper() for c in value)
        and not _is_name(value)
        and value.count("/") <= len(value) // 16
        and value.count("_") + value.count("-") <= len(value) // 10
    )


def _entropy(value: str) -> float:
    """Shannon's, in bits for each character."""
    shares = [value.count(c) / len(value) for c in set(value)]
    return -sum(share * math.log2(share) for share in shares)


# --- detect-secrets -------------------------------------------------------------------------------


@cache
def plugins() -> tuple[BasePlugin, ...]:
    """detect-secrets' detectors of shapes and names, without those of entropy and addresses."""
    try:
        from detect_secrets.plugins import (
            artifactory,
            aws,
            azure_storage_key,
            cloudant,
            discord,
            github_token,
            gitlab_token,
            ibm_cloud_iam,
            ibm_cos_hmac,
            keyword,
            mailchimp,
            npm,
            openai,
            pypi_token,
            sendgrid,
            slack,
            softlayer,
            square_oauth,
            stripe,
            telegram_token,
            twilio,
        )  # fmt: skip
    except ImportError:
        raise ConfigError.of(missing("detect-secrets")) from None
    return (
        artifactory.ArtifactoryDetector(), aws.AWSKeyDetector(),
        azure_storage_key.AzureStorageKeyDetector(), cloudant.CloudantDetector(),
        discord.DiscordBotTokenDetector(), github_token.GitHubTokenDetector(),
        gitlab_token.GitLabTokenDetector(), ibm_cloud_iam.IbmCloudIamDetector(),
        ibm_cos_hmac.IbmCosHmacDetector(), keyword.KeywordDetector(),
        mailchimp.MailchimpDetector(), npm.NpmDetector(), openai.OpenAIDetector(),
        pypi_token.PypiTokenDetector(), sendgrid.SendGridDetector(), slack.SlackDetector(),
        softlayer.SoftlayerDetector(), square_oauth.SquareOAuthDetector(),
        stripe.StripeDetector(), telegram_token.TelegramBotTokenDetector(),
        twilio.TwilioKeyDetector(),
    )  # fmt: skip


def _library(text: str) -> Iterator[Finding]:
    place = 0
    for line in text.split("\n"):
        for plugin in plugins() if len(line) >= 12 else ():
            for found in plugin.analyze_string(line):
                value = found.strip(" \t\"'=:")
                if len(value) >= 6 and looks_random(value):
                    yield from _places_of(value, line, place, plugin.secret_type)
        place += len(line) + 1


def _places_of(value: str, line: str, place: int, rule: str) -> Iterator[Finding]:
    """The library says what it found, not where."""
    at = line.find(value)
    while at >= 0:
        yield Finding("secret", place + at, place + at + len(value), f"detect-secrets: {rule}")
        at = line.find(value, at + len(value))
