"""The tokenizer as a GGUF file holds it: tokens with scores or merges, stops, template."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from gguf import TokenType
from transformers import PreTrainedTokenizerFast

from tanren.errors import Fault, ModelError
from tanren.export.gguf.families import MERGED_WAY
from tanren.export.gguf.likeness import STRIPPING, Likeness, likeness_of
from tanren.export.gguf.sentencepiece import ScoredVocabulary

_BYTE = re.compile(r"^<0x([0-9A-F]{2})>$")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`tokens` and `kinds` by id; `scores` (SentencePiece) or `merges` (byte-level), the other is
    empty. `stops` are all ids that end an answer, the tokenizer's own end first.
    """

    tokens: tuple[str, ...]
    kinds: tuple[TokenType, ...]
    scores: tuple[float, ...]
    merges: tuple[str, ...]
    bos: int | None
    pad: int | None
    unknown: int | None
    stops: tuple[int, ...]
    adds_bos: bool
    adds_eos: bool
    template: Any
    likeness: Likeness
    notes: tuple[str, ...]

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model(self.likeness.model)
        writer.add_tokenizer_pre(self.likeness.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        writer.add_token_scores(self.scores)
        writer.add_token_merges(self.merges)
        self._add_ids(writer)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        if self.likeness.space_prefix is not None:
            writer.add_add_space_prefix(self.likeness.space_prefix)
        if self.template:
            writer.add_chat_template(_named(self.template))

    def _add_ids(self, writer: gguf.GGUFWriter) -> None:
        if self.bos is not None:
            writer.add_bos_token_id(self.bos)
        adders = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
        for add, token_id in zip(adders, self.stops, strict=False):
            add(token_id)
        if self.unknown is not None:
            writer.add_unk_token_id(self.unknown)
        if self.pad is not None:
            writer.add_pad_token_id(self.pad)


def _named(template: Any) -> Any:
    """transformers holds several templates by name, GGUF as a list."""
    if isinstance(template, dict):
        return [{"name": name, "template": text} for name, text in template.items()]
    return template


def vocabulary_of(
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    size: int,
    prompts: Iterable[str] = (),
) -> Vocabulary:
    """The vocabulary of a model with `size` rows of embedding.

    Raises ModelError for tokenizers of a kind that GGUF has no place for.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    _require_expressible(backend, folder)
    tokens, kinds = _tokens(backend, tokenizer, size, folder)
    by_scores = bool(backend["model"]["byte_fallback"])
    pairs = _pairs(backend)
    scores = _scores(tokens, kinds, pairs) if by_scores else ()
    scored = _scored(tokens, scores) if by_scores else None
    stops = _stops(tokenizer, folder)
    likeness = likeness_of(tokenizer, scored, prompts)
    adds_bos, adds_eos = _framing(tokenizer)
    return Vocabulary(
        tokens=tokens,
        kinds=kinds,
        scores=scores,
        merges=() if by_scores else tuple(" ".join(pair) for pair in pairs),
        bos=tokenizer.bos_token_id,
        pad=tokenizer.pad_token_id,
        unknown=tokenizer.unk_token_id,
        stops=stops,
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        template=tokenizer.chat_template,
        likeness=likeness,
        notes=tuple(_notes(tokenizer, backend, tokens, stops, likeness)),
    )


# --- what can be said -----------------------------------------------------------------------------


def _require_expressible(backend: dict[str, Any], folder: Path) -> None:
    model = backend["model"]
    where = str(folder / "tokenizer.json")
    if model["type"] != "BPE" or not (model.get("byte_fallback") or _is_byte_level(backend)):
        kind = model["type"] + (" without bytes" if model["type"] == "BPE" else "")
        raise ModelError.of(
            Fault(
                where,
                f"a tokenizer of the kind {kind}",
                "byte-level BPE (as Llama 3 and Qwen have) or BPE with bytes to fall back on (as "
                "Llama 2 and Gemma have), which are all that llama.cpp is told here",
                MERGED_WAY,
            )
        )
    odd = [pair for pair in _pairs(backend) if any(" " in part for part in pair)]
    if odd:
        raise ModelError.of(
            Fault(
                f"{where} model.merges",
                f"{len(odd)} merges with a space in them, the first is {list(odd[0])}",
                "none: GGUF separates the two parts by a space",
                MERGED_WAY,
            )
        )


def _is_byte_level(backend: dict[str, Any]) -> bool:
    pre = backend.get("pre_tokenizer") or {}
    parts = [pre, *pre.get("pretokenizers", [])]
    return any(part.get("type") == "ByteLevel" for part in parts)


def _pairs(backend: dict[str, Any]) -> list[tuple[str, str]]:
    """Merges in order; older files write the two parts as one text."""
    return [
        (pair[0], pair[1]) if isinstance(pair, list) else (pair.split(" ")[0], pair.split(" ")[1])
        for pair in backend["model"]["merges"]
    ]


# --- tokens ---------------------------------------------------------------------------------------


def _tokens(
    backend: dict[str, Any], tokenizer: PreTrainedTokenizerFast, size: int, folder: Path
) -> tuple[tuple[str, ...], tuple[TokenType, ...]]:
    """Text and kind of every row of the embedding; rows that no token has are named [PADn]."""
    tokens = [f"[PAD{i}]" for i in range(size)]
    kinds = [TokenType.UNUSED] * size
    added = {token["id"]: token for token in backend["added_tokens"]}
    largest = max([*backend["model"]["vocab"].values(), *added])
    if largest >= size:
        raise ModelError.of(
            Fault(
                str(folder / "tokenizer.json"),
                f"a token with the id {largest}",
                f"ids below {size}, the rows of the model's embedding",
                "export the tokenizer that belongs to the model",
            )
        )
    bytes_too = bool(backend["model"]["byte_fallback"])
    for text, i in backend["model"]["vocab"].items():
        tokens[i] = text
        is_byte = bytes_too and _BYTE.match(text) is not None
        kinds[i] = TokenType.BYTE if is_byte else TokenType.NORMAL
    for i, token in added.items():
        tokens[i] = token["content"]
        kinds[i] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    if tokenizer.unk_token_id is not None:
        kinds[tokenizer.unk_token_id] = TokenType.UNKNOWN
    _require_unique(tokens, folder)
    return tuple(tokens), tuple(kinds)


def _require_unique(tokens: Sequence[str], folder: Path) -> None:
    twice = [text for text, count in Counter(tokens).items() if count > 1]
    if twice:
        raise ModelError.of(
            Fault(
                str(folder / "tokenizer.json"),
                f"{len(twice)} texts that two tokens have, the first is {twice[0]!r}",
                "one id for each text: llama.cpp stops otherwise",
                MERGED_WAY,
            )
        )


def _scores(
    tokens: Sequence[str], kinds: Sequence[TokenType], pairs: Sequence[tuple[str, str]]
) -> tuple[float, ...]:
    """By how early a token is merged: the first merge has the best score, 0. What no merge makes
    (characters, bytes, added tokens) comes after all merges.
    """
    rank: dict[str, int] = {}
    for position, (left, right) in enumerate(pairs):
        rank.setdefault(left + right, position)
    last = len(pairs)
    return tuple(
        -float(rank.get(text, last)) if kind is TokenType.NORMAL else 0.0
        for text, kind in zip(tokens, kinds, strict=True)
    )


def _scored(tokens: Sequence[str], scores: Sequence[float]) -> ScoredVocabulary:
    values = {text: int(match[1], 16) for text in tokens if (match := _BYTE.match(text))}
    ids = {text: i for i, text in enumerate(tokens)}
    return ScoredVocabulary(ids, scores, {value: ids[text] for text, value in values.items()})


# --- beginnings and ends --------------------------------------------------------------------------


def _stops(tokenizer: PreTrainedTokenizerFast, folder: Path) -> tuple[int, ...]:
    """Ids that end an answer: the tokenizer's end, then those of generation_config.json and of our
    card. Raises ModelError when there is none (T4).
    """
    found = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    for file, key in (("generation_config.json", "eos_token_id"), ("tanren.json", "stop_ids")):
        if (folder / file).is_file():
            value = json.loads((folder / file).read_text(encoding="utf-8")).get(key)
            found += value if isinstance(value, list) else [] if value is None else [value]
    if not found:
        raise ModelError.of(
            Fault(
                str(folder),
                "no token that ends an answer",
                "eos_token in tokenizer_config.json or eos_token_id in generation_config.json",
                "name the token: the model would never stop",
            )
        )
    return tuple(dict.fromkeys(found))


def _framing(tokenizer: PreTrainedTokenizerFast) -> tuple[bool, bool]:
    """Whether the tokenizer puts BOS in front and EOS behind, seen on a letter."""
    ids = tokenizer.encode("a")
    begins = tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    ends = tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id
    return begins, ends


def _notes(
    tokenizer: PreTrainedTokenizerFast,
    backend: dict[str, Any],
    tokens: Sequence[str],
    stops: Sequence[int],
    likeness: Likeness,
) -> Iterator[str]:
    yield from likeness.notes()
    if len(stops) > 3:
        names = ", ".join(tokens[i] for i in stops[3:])
        yield f"a GGUF file names three stop tokens; these have no place in it: {names}"
    if any(token["rstrip"] for token in backend["added_tokens"]) and not likeness.strips:
        yield (
            "special tokens of this tokenizer strip the white space behind them; llama.cpp does "
            f"so only for vocabularies with {', '.join(STRIPPING)}"
        )
    template = tokenizer.chat_template
    if isinstance(template, str) and "bos_token" in template and tokenizer.bos_token_id is None:
        yield "the chat template names a bos_token that the tokenizer has not"
    if not template:
        yield "the tokenizer has no chat template, so llama.cpp will use one of its own"
