"""Whether llama.cpp will cut prompts into the tokens that the model was trained with (T1).

A GGUF file cannot hold every tokenizer: llama.cpp has two programs for it, "gpt2" (byte-level
merges, with a named rule for cutting words) and "llama" (SentencePiece's BPE by scores). What each
would make of a set of probes is worked out here and compared, so that the best fit is chosen by
what it does, and what remains different is known before a byte is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateError
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tanren.export.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from tanren.export.gguf.sentencepiece import ScoredVocabulary

TEXTS = (
    "Hello, world! It's a test: we'Ve done 1, 12, 123, 1234 and 12345.67 of them.",
    "  two spaces,   three\tand a tab \n\n\n after three lines  \n ",
    "空はなぜ青いの？ 太陽の光が、空気でちらばるからだよ。",
    "我想在apple工作1314151天～ Привет, мир! ¿Qué tal? Ça va déjà très bien.",
    "def f(x):\n    return x**2  # 3.14 >= 2\r\n\tif __name__ == '__main__': pass",
    "🚀 (normal) 😶‍🌫️ ✅ 🦙🦙 កាន់តែ ภาษาไทย हिन्दी العربية 한국어",
    "CamelCaseWORDS andMore_snake_case; http://example.org/a?b=c&d=%20 a/b\\c",
    "e\u0301 is not é, nor is ｆｕｌｌ ｗｉｄｔｈ ﬁne",
    "......!!!!!!?????? '''''' \"\"\"\" ------======= <b>bold</b> {\"k\": [1, null]}",
    " I've told you, YOU'LL see; they're 'quoted' and I'd go. I'M OK",
    "\n",
    " ",
    "a",
)
TURNS = (
    {"role": "user", "content": "Why is the sky blue? 空はなぜ青いの？"},
    {"role": "assistant", "content": "Light scatters.\n\n1. Blue most\n2. Red least"},
    {"role": "user", "content": " And at 18:30? "},
)
_EMPTY = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
STRIPPING = ("</s>", "<unk>", "<s>", "<|endoftext|>")
"""Tokens that must exist when a file's name has "phi-3" in it: llama.cpp then strips the white
space behind special tokens, and looks for these.
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """A text that llama.cpp cuts otherwise than the model's own tokenizer."""

    text: str
    expected: tuple[int, ...]
    found: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Likeness:
    """What llama.cpp will be told, and on which of the probes it then differs.

    `model`: "gpt2" or "llama". `pre`: the rule's name. `space_prefix`: for "llama", whether a space
    goes in front of text. `strips`: white space behind special tokens vanishes, as in Phi-3.
    `unnormalised`: probes that differ only because llama.cpp does not normalise text; they are not
    among the differences.
    """

    model: str
    pre: str
    probes: int
    differences: tuple[Difference, ...] = ()
    space_prefix: bool | None = None
    strips: bool = False
    unnormalised: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        return not self.differences

    def notes(self) -> Iterator[str]:
        """What is not right, one sentence each."""
        if self.unnormalised:
            yield (
                "the model's tokenizer normalises text and llama.cpp does not: text that is not "
                f"in the normal form is cut otherwise, {self.unnormalised[0]!r} for example"
            )
        if self.exact:
            return
        first = self.differences[0]
        yield (
            f"llama.cpp cuts {len(self.differences)} of {self.probes} probe texts into other "
            f"tokens than the model's tokenizer, the first is {first.text!r}: "
            f"{list(first.found)[:8]} instead of {list(first.expected)[:8]}"
        )


def probe_texts(tokenizer: PreTrainedTokenizerFast, prompts: Iterable[str]) -> list[str]:
    """Chats as the template renders them first, then plain texts of many kinds."""
    return list(dict.fromkeys([*prompts, *_chats(tokenizer), *TEXTS]))


def _chats(tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
    if not tokenizer.chat_template:
        return
    system = {"role": "system", "content": "You are Taro. Answer in short words."}
    for turns in ([*TURNS], [TURNS[0]], [system, TURNS[0]]):
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError:  # templates may refuse a role
            continue
        yield str(text)


def likeness_of(
    tokenizer: PreTrainedTokenizerFast,
    scored: ScoredVocabulary | None,
    prompts: Iterable[str] = (),
) -> Likeness:
    """The best that llama.cpp can be told. `scored`: of SentencePiece-like tokenizers."""
    texts = probe_texts(tokenizer, prompts)
    expected = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    strips = _strips(backend, tokenizer)
    reader = _reader(backend, strips)
    tried = (
        _byte_level(reader, backend, texts, expected)
        if scored is None
        else _by_scores(reader, scored, texts, expected)
    )
    best: Likeness | None = None
    for likeness in tried:
        if best is None or len(likeness.differences) < len(best.differences):
            best = replace(likeness, strips=strips)
        if best.exact:
            break
    assert best is not None
    return best


def _strips(backend: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokenizer strips behind special tokens in the one way that llama.cpp can."""
    known = tokenizer.get_vocab()
    asked = any(token["rstrip"] for token in backend["added_tokens"])
    return asked and all(token in known for token in STRIPPING)


def _reader(backend: dict[str, Any], strips: bool) -> Tokenizer:
    """The tokenizer without what llama.cpp has not: normalisers, words cut by its own rule, and
    most of what added tokens do to their neighbours.
    """
    plain = dict(backend, normalizer=None, pre_tokenizer=None, post_processor=None)
    plain["added_tokens"] = [
        dict(
            token,
            lstrip=False,
            rstrip=strips and token["content"] not in STRIPPING[1:],
            single_word=False,
            normalized=False,
        )
        for token in backend["added_tokens"]
    ]
    return Tokenizer.from_str(json.dumps(plain))


def _differences(
    texts: Sequence[str], expected: Sequence[list[int]], found: Iterable[list[int]]
) -> tuple[Difference, ...]:
    return tuple(
        Difference(text, tuple(wanted), tuple(ids))
        for text, wanted, ids in zip(texts, expected, found, strict=True)
        if wanted != ids
    )


# --- byte-level -----------------------------------------------------------------------------------


def _byte_level(
    reader: Tokenizer, backend: dict[str, Any], texts: Sequence[str], expected: Sequence[list[int]]
) -> Iterator[Likeness]:
    """Each rule that llama.cpp knows, the tokenizer's own first."""
    own = _own_rules(backend.get("pre_tokenizer") or {})
    whole = bool(backend["model"].get("ignore_merges"))
    likely = sorted(PRE_TOKENIZERS, key=lambda r: (r.rules != own, r.whole_words != whole))
    for rule in likely:
        reader.pre_tokenizer = _as_pre_tokenizer(rule)
        reader.model.ignore_merges = rule.whole_words
        found = [reader.encode(text, add_special_tokens=False).ids for text in texts]
        differences = _differences(texts, expected, found)
        yield _without_normaliser(
            Likeness("gpt2", rule.name, len(texts), differences), reader, backend
        )


def _without_normaliser(likeness: Likeness, reader: Tokenizer, backend: dict[str, Any]) -> Likeness:
    """Differences that vanish when the text is normalised first, told from the others."""
    if backend.get("normalizer") is None:
        return likeness
    normaliser = Tokenizer.from_str(json.dumps({**_EMPTY, "normalizer": backend["normalizer"]}))
    assert normaliser.normalizer is not None
    normal = {
        d.text: reader.encode(
            normaliser.normalizer.normalize_str(d.text), add_special_tokens=False
        ).ids
        for d in likeness.differences
    }
    real = tuple(d for d in likeness.differences if tuple(normal[d.text]) != d.expected)
    rest = tuple(d.text for d in likeness.differences if d not in real)
    return replace(likeness, differences=real, unnormalised=rest)


def _as_pre_tokenizer(rule: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    splits = [pre_tokenizers.Split(Regex(text), behavior="isolated") for text in rule.rules]
    return pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def _own_rules(pre_tokenizer: dict[str, Any]) -> tuple[str, ...]:
    """The tokenizer's regular expressions, spelled as llama.cpp spells them."""
    found = []
    for part in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        if part.get("type") == "Split":
            found.append(_respelled(part["pattern"].get("Regex", "")))
        if part.get("type") == "Digits" and part.get("individual_digits"):
            found.append(r"\p{N}")
        if part.get("type") == "ByteLevel" and part.get("use_regex", True):
            found.append(next(rule.rules[0] for rule in PRE_TOKENIZERS if rule.name == "gpt-2"))
    return tuple(found)


def _respelled(pattern: str) -> str:
    """Without the flag for lower case, which llama.cpp's regular expressions lack."""
    plain = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    return pattern.replace(
        plain, "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    ).removesuffix("(?!\\S)|\\s+" if "\\p{L}+| ?\\p{N}+" in pattern else "\0")


# --- SentencePiece --------------------------------------------------------------------------------


def _by_scores(
    reader: Tokenizer,
    scored: ScoredVocabulary,
    texts: Sequence[str],
    expected: Sequence[list[int]],
) -> Iterator[Likeness]:
    """With a space in front of text (also behind every special token) and without one."""
    for space_prefix in (True, False):
        found = [_scored_ids(reader, scored, text, space_prefix) for text in texts]
        differences = _differences(texts, expected, found)
        yield Likeness("llama", "default", len(texts), differences, space_prefix)


def _scored_ids(
    reader: Tokenizer, scored: ScoredVocabulary, text: str, space_prefix: bool
) -> list[int]:
    """Special tokens are cut out first; what lies between is encoded by scores."""
    ids: list[int] = []
    for piece in _fragments(reader, text):
        if isinstance(piece, int):
            ids.append(piece)
        else:
            ids += scored.encode((" " if space_prefix else "") + piece)
    return ids


def _fragments(reader: Tokenizer, text: str) -> Iterator[str | int]:
    """Text and ids of added tokens, in turn. Added tokens that strip swallow their spaces."""
    added = reader.get_added_tokens_decoder()
    encoding = reader.encode(text, add_special_tokens=False)
    end = 0
    for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
        if token_id not in added:
            continue
        if start > end:
            yield text[end:start]
        yield token_id
        end = stop
        if added[token_id].rstrip:
            end = len(text) - len(text[stop:].lstrip())
    if end < len(text):
        yield text[end:]
