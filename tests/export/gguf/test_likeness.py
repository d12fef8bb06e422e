"""T1: what llama.cpp will make of prompts is known before a file is written.

That the forecast is right is proven with llama.cpp itself in `test_llama_cpp.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import templates
import tiny
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tanren.errors import ModelError
from tanren.export.gguf.likeness import TEXTS, Likeness, likeness_of
from tanren.export.gguf.sentencepiece import ScoredVocabulary
from tanren.export.gguf.vocabulary import Vocabulary, vocabulary_of

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
PAIRS = r"..|[\s\S]"


def byte_level(*rules: pre_tokenizers.PreTokenizer, whole_words: bool = False) -> Tokenizer:
    """Trained on the probes, cut by `rules`, so that other cuts give other tokens."""
    backend = Tokenizer(models.BPE(ignore_merges=whole_words))
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(rules))
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=[tiny.PAD, tiny.START, tiny.END],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator([*TEXTS, *tiny.CORPUS] * 3, trainer)
    return backend


def split(pattern: str) -> list[pre_tokenizers.PreTokenizer]:
    return [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def wrapped(backend: Tokenizer, template: str | None = tiny.CHATML) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=tiny.END, pad_token=tiny.PAD)
    made.chat_template = template
    return made


PLAIN = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Digits(individual_digits=True)


@pytest.mark.parametrize(
    ("backend", "pre"),
    [
        (byte_level(*split(QWEN2)), "qwen2"),
        (byte_level(*split(LLAMA3)), "smaug-bpe"),
        (byte_level(*split(LLAMA3), whole_words=True), "llama-bpe"),
        (byte_level(PLAIN), "gpt-2"),
        (byte_level(DIGITS, PLAIN), "smollm"),
    ],
    ids=["qwen2", "llama3", "llama3-whole-words", "gpt-2", "digits"],
)
def test_the_rule_is_found_by_what_it_does(backend: Tokenizer, pre: str) -> None:
    likeness = likeness_of(wrapped(backend), None)
    assert likeness.pre == pre
    assert likeness.exact
    assert list(likeness.notes()) == []
    assert likeness.probes >= len(TEXTS) + 3


def test_a_rule_that_llama_cpp_has_not_is_measured_and_said() -> None:
    likeness = likeness_of(wrapped(byte_level(*split(PAIRS))), None)
    assert not likeness.exact
    first = likeness.differences[0]
    own = wrapped(byte_level(*split(PAIRS)))
    assert list(first.expected) == own.encode(first.text, add_special_tokens=False)
    assert first.found != first.expected
    note = next(likeness.notes())
    assert f"{len(likeness.differences)} of {likeness.probes}" in note
    assert repr(first.text) in note


@pytest.mark.parametrize(("rules", "exact"), [(split(LLAMA3), True), ([PLAIN], False)])
def test_a_rule_takes_words_whole_or_builds_them(
    rules: list[pre_tokenizers.PreTokenizer], exact: bool
) -> None:
    """llama.cpp's llama-bpe looks a word up before it merges, its gpt-2 never does: a token that no
    merge makes is found by the first alone.
    """
    backend = json.loads(byte_level(*rules, whole_words=True).to_str())
    backend["model"]["vocab"]["Zwieback"] = len(backend["model"]["vocab"])
    tokenizer = wrapped(Tokenizer.from_str(json.dumps(backend)))
    likeness = likeness_of(tokenizer, None, ["Zwieback"])
    assert likeness.exact == exact
    assert exact or [d.text for d in likeness.differences] == ["Zwieback"]


def test_prompts_of_the_caller_are_probed_too() -> None:
    """A rule that differs on one prompt alone is not exact for it."""
    tokenizer = wrapped(byte_level(*split(QWEN2)))
    tokenizer.add_tokens([AddedToken("Zug", single_word=True, normalized=False)])
    assert likeness_of(tokenizer, None).exact
    prompted = likeness_of(tokenizer, None, ["der Zug", "der Zugvogel"])
    assert [d.text for d in prompted.differences] == ["der Zugvogel"]


def test_text_that_is_normalised_is_told_from_other_differences() -> None:
    backend = byte_level(*split(QWEN2))
    backend.normalizer = normalizers.NFC()
    likeness = likeness_of(wrapped(backend), None)
    assert likeness.exact
    assert [text[:2] for text in likeness.unnormalised] == ["e\u0301"]
    assert "normal form" in next(likeness.notes())


# --- SentencePiece --------------------------------------------------------------------------------


def vocabulary(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Vocabulary:
    return vocabulary_of(tokenizer, folder, len(tokenizer))


@pytest.mark.parametrize("name", ["gemma3", "mistral", "phi3", "chatml-llama2"])
def test_sentencepiece_vocabularies_are_told_by_scores(name: str, tmp_path: Path) -> None:
    """Earlier merges have better scores; bytes, unknown and control tokens have their kinds."""
    tokenizer = templates.families()[name].tokenizer()
    found = vocabulary(tokenizer, tmp_path)
    assert found.likeness.exact
    assert found.likeness.model == "llama" and found.merges == ()
    assert found.likeness.space_prefix == (name != "gemma3")
    assert found.likeness.strips == (name == "phi3")
    assert found.adds_bos and found.bos == tokenizer.bos_token_id
    by_text = dict(zip(found.tokens, zip(found.kinds, found.scores, strict=True), strict=True))
    assert by_text["<0x0A>"][0].name == "BYTE"
    assert by_text[str(tokenizer.eos_token)][0].name == "CONTROL"
    merged = [score for kind, score in by_text.values() if kind.name == "NORMAL" and score == 0]
    assert len(merged) == 1  # the first merge alone has the best score


def test_the_best_score_is_joined_first_and_the_leftmost_of_equals() -> None:
    """By hand: 'bc' (best) breaks up 'ab'; of 'aaa' the left two are joined."""
    texts = ["a", "b", "c", "ab", "bc", "aa", "▁", "<0xE2>", "<0x82>", "<0xAC>"]
    scores = [-9.0, -9, -9, -2, -1, -3, -9, 0, 0, 0]
    ids = {text: i for i, text in enumerate(texts)}
    reader = ScoredVocabulary(ids, scores, {0xE2: 7, 0x82: 8, 0xAC: 9})
    assert reader.encode("abc") == [0, 4]
    assert reader.encode("aaa") == [5, 0]
    assert reader.encode("ab c") == [3, 6, 2]
    assert reader.encode("€") == [7, 8, 9]
    assert reader.encode("x") == []  # nothing can say it


# --- what has no place ----------------------------------------------------------------------------


def refused(backend: Tokenizer, folder: Path, words: str, rows: int = 50) -> None:
    with pytest.raises(ModelError, match=words):
        vocabulary_of(wrapped(backend, None), folder, rows)


def test_other_kinds_of_tokenizers_are_refused(tmp_path: Path) -> None:
    vocab = {"[UNK]": 0, "a": 1, "b": 2, tiny.END: 3, tiny.PAD: 4}
    words = models.WordLevel(vocab, unk_token="[UNK]")
    unigram = models.Unigram([(text, -1.0) for text in vocab], unk_id=0, byte_fallback=False)
    for model, kind in ((words, "WordLevel"), (unigram, "Unigram"), (models.BPE(vocab, []), "BPE")):
        refused(Tokenizer(model), tmp_path, f"of the kind {kind}")


def test_merges_with_spaces_and_ids_beyond_the_rows_are_refused(tmp_path: Path) -> None:
    vocab = {"a": 0, " ": 1, "a ": 2, tiny.END: 3, tiny.PAD: 4}
    spaced = Tokenizer(models.BPE(vocab, [("a", " ")]))
    spaced.pre_tokenizer = pre_tokenizers.ByteLevel(use_regex=False)
    refused(spaced, tmp_path, "a space in them")
    refused(byte_level(PLAIN), tmp_path, "ids below 50")


def test_two_tokens_of_one_text_are_refused(tmp_path: Path) -> None:
    """Rows without a token are called [PADn], and llama.cpp stops at two tokens of one text."""
    backend = byte_level(PLAIN)
    backend.add_tokens(["[PAD2000]"])
    with pytest.raises(ModelError, match=r"the first is '\[PAD2000\]'"):
        vocabulary_of(wrapped(backend), tmp_path, 2010)
    assert vocabulary_of(wrapped(backend), tmp_path, 1999).tokens[1998] == "[PAD1998]"


def test_a_template_that_refuses_roles_is_probed_with_the_rest() -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    tokenizer = wrapped(byte_level(*split(QWEN2)), strict + tiny.CHATML)
    likeness: Likeness = likeness_of(tokenizer, None)
    assert likeness.probes == len(TEXTS) + 2


@pytest.fixture
def written(tmp_path: Path) -> Callable[[PreTrainedTokenizerFast], Vocabulary]:
    return lambda tokenizer: vocabulary(tokenizer, tmp_path)


def test_what_the_template_lacks_is_said(
    written: Callable[[PreTrainedTokenizerFast], Vocabulary],
) -> None:
    backend = byte_level(*split(QWEN2))
    assert "no chat template" in written(wrapped(backend, None)).notes[0]
    assert "bos_token" in written(wrapped(backend, "{{ bos_token }}" + tiny.CHATML)).notes[0]
    assert written(wrapped(backend)).notes == ()
