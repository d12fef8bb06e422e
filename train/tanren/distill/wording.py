"""The words that go back to the teacher: what is wrong with its answer, and by how much.

`wording` in the settings is a language (`default` is English, `ja` Japanese) or a mapping of own
Jinja texts by code, with `language` for those that are not given:

    wording:
      language: ja
      length.high: "あと{{ off }}文字だけ短くしてください。"
      again: 全文を書き直してください。

Texts are given the numbers by name: `found`, `low`, `high`, `off`, `unit`, and `wanted`, the range
in words; lists as `texts` or `complaints`. `again` closes every message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

from tanren.distill.constraints.base import Problem
from tanren.distill.templates import rendered, template_faults
from tanren.errors import ConfigError, Fault
from tanren.strict_json import close_match

_ENGLISH = {
    "length.low": "The answer has {{ counted }}; it must have {{ wanted }}: lengthen it by at "
    "least {{ off }}.",
    "length.high": "The answer has {{ counted }}; it must have {{ wanted }}: shorten it by at "
    "least {{ off }}.",
    "bullets.low": "The answer has {{ counted }}; it must have {{ wanted }}: add at least "
    "{{ off }}.",
    "bullets.high": "The answer has {{ counted }}; it must have {{ wanted }}: leave out at least "
    "{{ off }}.",
    "regex.broken": "{{ 'The whole answer' if whole else 'A part of the answer' }} must match the "
    "regular expression {{ pattern }}, and does not.",
    "regex.absent.broken": "Nothing in the answer may match the regular expression {{ pattern }}, "
    "and this does: {{ found }}",
    "regex.slow": "The regular expression {{ pattern }} took longer than {{ seconds }} s.",
    "json_schema.syntax": "The answer must be one JSON value and nothing else; it is not "
    "({{ found }}).",
    "json_schema.broken": "The JSON does not fit its schema: {{ complaints | join('; ') }}"
    "{% if more %}; and {{ more }} more{% endif %}.",
    "language": "The answer must be written in {{ language_name }}: {{ share_found }} of its "
    "letters belong to it, and at least {{ share_wanted }} must.",
    "must_contain": "The answer must contain {{ quoted }}, exactly so.",
    "must_not_contain": "The answer must not contain {{ quoted }}.",
    "python": "{{ found }}",
    "judge.low": "A reader gave the answer {{ shown_found }} for {{ criterion }}; it must be at "
    "least {{ shown_low }}. {{ question }} {{ reason }}",
    "judge.unreadable": "The judge {{ judge }} could not be read: {{ found }}.",
    "answer.cut": "The answer broke off at its most tokens: write a shorter one.",
    "answer.empty": "The answer is empty.",
    "again": "Write the whole answer again, and nothing but the answer.",
}
_JAPANESE = {
    "length.low": "回答は{{ counted }}です。{{ wanted }}でなければなりません。"
    "あと{{ off }}{{ unit_name }}以上長くしてください。",
    "length.high": "回答は{{ counted }}です。{{ wanted }}でなければなりません。"
    "あと{{ off }}{{ unit_name }}以上短くしてください。",
    "bullets.low": "回答の箇条書きは{{ counted }}です。{{ wanted }}でなければなりません。"
    "あと{{ off }}{{ unit_name }}以上加えてください。",
    "bullets.high": "回答の箇条書きは{{ counted }}です。{{ wanted }}でなければなりません。"
    "あと{{ off }}{{ unit_name }}以上減らしてください。",
    "regex.broken": "回答{{ '全体' if whole else 'の一部' }}が正規表現 {{ pattern }} に"
    "一致しなければなりませんが、一致していません。",
    "regex.absent.broken": "正規表現 {{ pattern }} に一致する部分があってはなりませんが、"
    "「{{ found }}」が一致しています。",
    "regex.slow": "正規表現 {{ pattern }} の照合が {{ seconds }} 秒で終わりませんでした。",
    "json_schema.syntax": "回答は一つの JSON だけでなければなりませんが、JSON として読めません"
    "（{{ found }}）。",
    "json_schema.broken": "JSON がスキーマに合っていません：{{ complaints | join('；') }}"
    "{% if more %}；ほか{{ more }}件{% endif %}。",
    "language": "回答は{{ language_name }}で書いてください。その文字は{{ share_found }}しかなく、"
    "{{ share_wanted }}以上が必要です。",
    "must_contain": "回答に必ず次の言葉をそのまま入れてください：{{ quoted }}",
    "must_not_contain": "回答に次の言葉を入れてはいけません：{{ quoted }}",
    "python": "{{ found }}",
    "judge.low": "読み手の評価は {{ criterion }} が{{ shown_found }}でした。"
    "{{ shown_low }}以上が必要です。{{ question }}{{ reason }}",
    "judge.unreadable": "審査員 {{ judge }} の返事が読めませんでした：{{ found }}",
    "answer.cut": "回答が長すぎて途中で切れました。もっと短く書いてください。",
    "answer.empty": "回答が空です。",
    "again": "回答の全文だけを、もう一度書いてください。",
}
TEXTS: Mapping[str, Mapping[str, str]] = {"default": _ENGLISH, "en": _ENGLISH, "ja": _JAPANESE}

_UNITS = {
    "characters": "文字",
    "tokens": "トークン",
    "words": "語",
    "lines": "行",
    "sentences": "文",
    "bullets": "個",
    "points": "点",
}
_LANGUAGES = {
    "ja": ("Japanese", "日本語"),
    "zh": ("Chinese", "中国語"),
    "ko": ("Korean", "韓国語"),
    "en": ("English", "英語"),
    "ru": ("Russian", "ロシア語"),
    "el": ("Greek", "ギリシア語"),
    "ar": ("Arabic", "アラビア語"),
    "he": ("Hebrew", "ヘブライ語"),
    "th": ("Thai", "タイ語"),
    "hi": ("Hindi", "ヒンディー語"),
}


class Wording:
    """Renders problems. ConfigError for a language or code that there is not, or a wrong text."""

    def __init__(self, asked: str | Mapping[str, str], where: str = "wording") -> None:
        given = {"language": asked} if isinstance(asked, str) else dict(asked)
        self.language = given.pop("language", "default")
        faults = []
        if self.language not in TEXTS:
            remedy = "write texts of your own: wording: {length.high: ...}"
            expected = "one of " + ", ".join(TEXTS)
            faults.append(Fault(where, repr(self.language), expected, remedy))
        for code, text in given.items():
            faults += template_faults(text, None, f"{where}.{code}")
            if code not in _ENGLISH:
                near = close_match(code, list(_ENGLISH))
                remedy = f"did you mean {near!r}?" if near else "remove it"
                expected = "one of " + ", ".join(_ENGLISH)
                faults.append(Fault(f"{where}.{code}", "an unknown text", expected, remedy))
        if faults:
            raise ConfigError.of(*faults)
        self._own = given
        self._texts = {**TEXTS[self.language], **given}

    @property
    def is_japanese(self) -> bool:
        return self.language == "ja"

    def identity(self) -> dict[str, str]:
        """What the words depend on; texts of ours are asked anew where a version changes them."""
        return {"language": self.language, **self._own}

    def of(self, problem: Problem, own: str | None = None) -> str:
        """What is wrong, in words. `own`: the constraint's own text."""
        template = own or self._texts[problem.code]
        values = {**problem.facts, **_shown(problem.facts, self.is_japanese)}
        try:
            return rendered(template, values).strip()
        except jinja2.TemplateError as error:
            expected = "placeholders among " + ", ".join(sorted(values))
            where = f"words of {problem.code}"
            raise ConfigError.of(Fault(where, str(error), expected, "correct it")) from None

    def turn(self, words: list[str]) -> str:
        """The user's turn that asks to mend everything that is wrong."""
        listed = words if len(words) == 1 else [f"- {one}" for one in words]
        return "\n".join([*listed, self._texts["again"]]).strip()


def _shown(facts: Mapping[str, Any], japanese: bool) -> dict[str, str]:
    """Numbers and lists as they are said."""
    said: dict[str, str] = {}
    unit = facts.get("unit")
    if unit is not None:
        name = _UNITS[unit] if japanese else unit
        said["unit_name"] = name
        said["counted"] = counted(facts["found"], name, japanese)
        said["wanted"] = wanted(facts["low"], facts["high"], name if japanese else "", japanese)
        said["shown_found"] = f"{facts['found']:g}"
        said["shown_low"] = "" if facts["low"] is None else f"{facts['low']:g}"
    if "texts" in facts:
        marks = "「」" if japanese else '""'
        quoted = [f"{marks[0]}{text}{marks[1]}" for text in facts["texts"]]
        said["quoted"] = ("、" if japanese else ", ").join(quoted)
    if "language" in facts:
        said["language_name"] = _LANGUAGES[facts["language"]][int(japanese)]
        said["share_found"] = f"{facts['found']:.0%}"
        said["share_wanted"] = f"{facts['wanted']:.0%}"
    return said


def counted(number: float, unit: str, japanese: bool = False) -> str:
    """`1 character`, `112 characters`, `112文字`."""
    if japanese:
        return f"{number:g}{unit}"
    return f"{number:g} {unit[:-1] if number == 1 else unit}"


def wanted(low: float | None, high: float | None, unit: str, japanese: bool) -> str:
    """`95 to 105`, `at least 95`, `at most 105`, `exactly 100`."""
    if low == high:
        return f"ちょうど{low:g}{unit}" if japanese else f"exactly {low:g}"
    if low is None:
        return f"{high:g}{unit}以下" if japanese else f"at most {high:g}"
    if high is None:
        return f"{low:g}{unit}以上" if japanese else f"at least {low:g}"
    return f"{low:g}〜{high:g}{unit}" if japanese else f"{low:g} to {high:g}"
