"""Rules on one text: each function yields the pieces where it finds its matter."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

from tanren.data.lint.found import around

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ODD_SPACE = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")
_WIDE = re.compile("[０-９Ａ-Ｚａ-ｚ]")
_NARROW_DIGIT = re.compile("[0-9]")
_NARROW_LETTER = re.compile("[A-Za-z]")
_JAPANESE = "[\u3041-\u30fe\u4e00-\u9fff]"
_WESTERN_STOP = re.compile(f"(?<={_JAPANESE})[，．]|(?<={_JAPANESE}),(?={_JAPANESE})")
_FENCE = re.compile(r"^[ \t]{0,12}(```|~~~)", re.MULTILINE)
_CODE_BLOCK = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_LEFTOVER = re.compile(
    r"<\|(?:im_start|im_end|endoftext|end_of_text|begin_of_text|eot_id|start_header_id|"
    r"end_header_id|system|user|assistant|end|pad|sep)\|>"
    r"|\[/?INST\]|<</?SYS>>|</?s>(?!\w)|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|^#{2,3} ?(?:Instruction|Response|Input|Human|Assistant|User|Output|指示|応答|入力)s?"
    r" ?[:：]?\s*$"
    r"|^(?:Human|Assistant|USER|ASSISTANT|User|Bot) ?: |"
    r"\{\{ ?[A-Za-z_][\w.]{0,40} ?\}\}|\{% ?\w+[^%\n]{0,80}%\}"
    r"|\[(?:Your|Insert|My|Company|Customer)(?: [A-Z]?[a-z]+){1,3}\]|\bLorem ipsum\b",
    re.MULTILINE,
)
# `{{name}}` and `</s>` are at home in code and formulas.
_CODE_LIKE = re.compile(r"\\(?:frac|text|begin|math)|<html|\bdef |\bclass |=>|</\w+>")
_BOILERPLATE = re.compile(
    r"\bas an? (?:AI|artificial intelligence)(?: language)? (?:model|assistant)\b"
    r"|\bI(?:'m| am) (?:just )?an? (?:AI|large) language model\b"
    r"|\bmy (?:knowledge cut-?off|training data only)\b"
    r"|^I(?:'m| am) (?:really |very )?sorry, (?:but )?I "
    r"(?:can ?not|can['’]t|am not able to|am unable)"
    r"|^I(?:'m| am) unable to (?:assist|help|provide)|^I can(?:not|['’]t) (?:assist|help|fulfil)"
    r"|AI(?:アシスタント|言語モデル|モデル)として|(?:大規模|AI)言語モデル(?:です|なので|のため|として)"
    r"|^(?:大変)?申し訳(?:ありません|ございません|ないのですが)|^(?:すみませんが|恐れ入りますが)、"
    r"|^I hope this (?:email|message) finds you well",
    re.IGNORECASE,
)
# One of these stands in everything that the expression finds; looking for them is far cheaper.
_BOILERPLATE_WORDS = (
    *("language model", " ai ", "artificial", "assistant", "cut-off", "cutoff", "training data"),
    *("sorry", "unable", "i can", "finds you well", "モデル", "アシスタント", "申し訳"),
    *("すみませんが", "恐れ入りますが"),
)
_CONTACT = re.compile(r"https?://[^\s)\]}>」』）]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.ASCII)
_RUN = re.compile(r"([^\s\W\d_])\1{19,}")
_SENTENCE = re.compile(r"[^。．.!?！？\n]+[。．.!?！？]?")
_PAIRS = {"「": "」", "『": "』", "（": "）", "【": "】", "《": "》", "(": ")", "[": "]"}
_CLOSING = {closing: opening for opening, closing in _PAIRS.items()}
_BRACKETS = re.compile("[" + re.escape("".join(_PAIRS) + "".join(_CLOSING)) + "]")
# What stands before a bracket that has no partner and needs none: `1)`, `a)`, `:-)`, `[0, 1)`.
_POINT = re.compile(r"(?:^|[\s,、。:;])(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})\Z")
_FACE = re.compile(r"[:;=][-'^o]?[()]*\Z")
_INTERVAL = re.compile(r"[\[(] ?[-+]?[\w.∞]+ ?, ?[-+]?[\w.∞]+ ?[\])]")
_ENDED = set("。．.!?！？…」』）)】］]}>\"'”’`♪☆★〜～~‥*_")


def control_characters(text: str) -> Iterator[str]:
    for match in _CONTROL.finditer(text):
        yield around(text, match.start(), match.end())


def odd_spaces(text: str) -> Iterator[str]:
    if not text.isascii():
        for match in _ODD_SPACE.finditer(text):
            yield around(text, match.start(), match.end())


def full_width(text: str) -> str | None:
    """The first full-width letter or digit with what stands around it."""
    match = None if text.isascii() else _WIDE.search(text)
    return around(text, match.start(), match.end()) if match else None


def has_narrow(text: str) -> bool:
    """Whether digits or letters of half width stand in Japanese text."""
    return bool(_NARROW_DIGIT.search(text) or _NARROW_LETTER.search(text))


def both_widths(text: str) -> bool:
    """Digits of both widths, or letters of both, in one text."""
    wide = "".join(_WIDE.findall(text))
    return bool(
        (re.search("[０-９]", wide) and _NARROW_DIGIT.search(text))
        or (re.search("[Ａ-Ｚａ-ｚ]", wide) and _NARROW_LETTER.search(text))
    )


def punctuation_styles(text: str) -> tuple[bool, str | None]:
    """Whether 、 or 。 stands in the text, and the first ， ． or , among Japanese characters."""
    if text.isascii():
        return False, None
    match = _WESTERN_STOP.search(text)
    western = around(text, match.start(), match.end()) if match else None
    return "、" in text or "。" in text, western


def leftovers(text: str) -> Iterator[str]:
    if not (
        "<" in text or "[" in text or "{" in text or ":" in text or "#" in text or "m ip" in text
    ):
        return
    plain = _CODE_BLOCK.sub(" ", text) if "`" in text else text
    for match in _LEFTOVER.finditer(plain):
        if match[0][:1] in "{" and _CODE_LIKE.search(plain):
            continue
        yield match[0].strip()


def boilerplate(text: str) -> Iterator[str]:
    """Of the first sentences only: that is where such phrases stand."""
    head = text[:400]
    lowered = head.lower()
    if any(word in lowered for word in _BOILERPLATE_WORDS):
        for match in _BOILERPLATE.finditer(head):
            yield match[0]


def contacts(text: str) -> Iterator[str]:
    if "://" in text or "@" in text:
        for match in _CONTACT.finditer(text):
            yield match[0]


def open_fence(text: str) -> Iterator[str]:
    """A fence that is opened and not closed. A fence closes with the mark it was opened by."""
    if "```" not in text and "~~~" not in text:
        return
    opened: re.Match[str] | None = None
    for match in _FENCE.finditer(text):
        if opened is None:
            opened = match
        elif opened[1] == match[1]:
            opened = None
    if opened is not None:
        yield text[opened.start() : opened.start() + 60]


def open_brackets(text: str) -> Iterator[str]:
    """The first bracket without a partner; code, numbered points and faces are no brackets."""
    if not _BRACKETS.search(text) or "`" in text or "\\" in text:
        return
    plain = _INTERVAL.sub(lambda match: " " * len(match[0]), text)
    waiting: list[tuple[str, int]] = []
    for match in _BRACKETS.finditer(plain):
        mark, start = match[0], match.start()
        before = plain[max(0, start - 12) : start]
        if mark in _PAIRS:
            frowns = _FACE.search(before) and not plain[start + 1 : start + 2].strip()
            if not frowns:
                waiting.append((mark, start))
            continue
        partners = [i for i, (opening, _) in enumerate(waiting) if opening == _CLOSING[mark]]
        if partners:
            del waiting[partners[-1]]
        elif not (_POINT.search(before) or _FACE.search(before)):
            yield around(text, start, start + 1)
            return
    if waiting:
        yield around(text, waiting[0][1], waiting[0][1] + 1)


def loops(text: str) -> Iterator[str]:
    """What is said four times in a row, a sentence three times in all, a letter twenty times."""
    if len(text) < 20:
        return
    run = _RUN.search(text)
    if run:
        yield f"{run[0][:10]}… ({len(run[0])} times {run[1]})"
        return
    unit = _periodic(text)
    if unit:
        yield unit
        return
    if len(text) >= 60:
        sentences = Counter(s.strip() for s in _SENTENCE.findall(text))
        sentence, times = max(sentences.items(), key=lambda item: item[1], default=("", 0))
        long_enough = len(sentence) >= 12 and times * len(sentence) >= 0.2 * len(text)
        if times >= 3 and long_enough and _says_something(sentence, len(sentence)):
            yield f"{sentence} ({times} times)"


_PROBE = 8
_LONGEST_UNIT = 200
_MIN_ASCII, _MIN_OTHER = 40, 20


def _periodic(text: str) -> str | None:
    """A unit that follows itself at least three times more, over 40 characters (20 of Japanese)."""
    for start in range(0, len(text) - _MIN_OTHER, _PROBE):
        probe = text[start : start + _PROBE]
        period = text.find(probe, start + 1, start + _LONGEST_UNIT + _PROBE) - start
        if period < 2:
            continue
        unit = text[start : start + period]
        least = _MIN_ASCII if unit.isascii() else _MIN_OTHER
        span = max(4 * period, least)
        repeated = unit * (span // period + 1)
        if text.startswith(repeated[:span], start) and _says_something(unit, period):
            return f"{unit.strip()} (again and again)"
    return None


def _says_something(unit: str, period: int) -> bool:
    """Rulers, tables and laughter repeat rightly; words do not."""
    letters = sum(character.isalpha() for character in unit)
    return len(set(unit)) >= 3 and letters >= max(3, period // 2)


def ending(text: str) -> str:
    """`ended`, `cut`, or "" where an end says nothing: labels, lists, numbers, code."""
    stripped = text.rstrip()
    last_line = stripped.rpartition("\n")[2].lstrip()
    if len(stripped) < 20 or last_line[:1] in ("-", "*", "|", "#", "•", "・", "`"):
        return ""
    if re.match(r"\d{1,3}[.)]", last_line):
        return ""
    last = stripped[-1]
    if last in _ENDED or unicodedata.category(last) in ("So", "Sk", "Po", "Pe", "Pf"):
        return "cut" if last in ",、，;：:" else "ended"
    return "cut" if last.isalpha() else ""


def last_sentence(text: str) -> str:
    """The last of several sentences; "" where there is only one."""
    sentences = [s.strip() for s in _SENTENCE.findall(text[-400:]) if s.strip()]
    return sentences[-1] if len(sentences) > 1 else ""
