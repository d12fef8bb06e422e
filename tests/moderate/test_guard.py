"""Laws of guard models on this machine, on tiny models made from a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from tanren.data.screen import Passage, Unjudged, Verdict
from tanren.errors import ConfigError, ModelError
from tanren.moderate import named_moderator
from tanren.moderate.chat_guard import ChatGuard, read_answer
from tanren.moderate.classifier import Classifier, unsafe_labels

LABELS = {0: "safe", 1: "violence", 2: "hate"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier of three labels; 64 tokens are its longest text."""
    path = tmp_path_factory.mktemp("guard")
    tokenizer = tiny.build_tokenizer()
    values = {
        **tiny.SHAPE,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": 64,
        "num_labels": 3,
        "id2label": LABELS,
        "label2id": {name: number for number, name in LABELS.items()},
    }
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("qwen3", **values))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def classifier(folder: Path, labels: str = "", **more: Any) -> Classifier:
    guard = named_moderator(f"guard:{folder}{labels}", **more)
    assert isinstance(guard, Classifier)
    return guard


def scores(guard: Any, *texts: str) -> list[Verdict]:
    said = guard.judge([Passage(text, "user") for text in texts])
    assert all(isinstance(one, Verdict) for one in said)
    return list(said)


def test_a_classifier_gives_the_models_own_shares_together_or_alone(folder: Path) -> None:
    guard = classifier(folder)
    texts = ["空はなぜ青いの？", "Who are you?", "a", "the cat sat on the mat, and sat there long"]
    together = scores(guard, *texts)
    for text, one in zip(texts, together, strict=True):
        ids = torch.tensor([guard.tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            shares = guard.model(input_ids=ids).logits.softmax(-1)[0].tolist()
        assert one.scores == pytest.approx({"violence": shares[1], "hate": shares[2]}, abs=1e-5)
        assert scores(guard, text)[0].scores == pytest.approx(one.scores, abs=1e-5)


def test_a_long_message_is_as_unsafe_as_its_worst_window(folder: Path) -> None:
    guard = classifier(folder)
    (one,) = scores(guard, long := "the cat sat on the mat and asked who are you " * 12)
    windows = list(guard._windows(long))
    assert len(windows) > 3 and max(map(len, windows)) <= 64
    ids = guard.tokenizer(long, add_special_tokens=False)["input_ids"]
    assert {tuple(ids[i : i + 2]) for i in range(len(ids) - 1)} <= {
        tuple(w[i : i + 2]) for w in windows for i in range(len(w) - 1)
    }
    worst = [max(row[n] for row in (guard._scores([w])[0] for w in windows)) for n in (1, 2)]
    assert [one.scores["violence"], one.scores["hate"]] == pytest.approx(worst, abs=1e-5)


def test_a_threshold_decides(folder: Path) -> None:
    text = "Who are you?"
    (one,) = scores(classifier(folder), text)
    middle = sum(one.scores.values()) / 2
    surest = max(one.scores, key=lambda name: one.scores[name])
    assert scores(classifier(folder, threshold=middle), text)[0].flagged == (surest,)
    assert set(scores(classifier(folder, threshold=0.0), text)[0].flagged) == {"violence", "hate"}
    only = classifier(folder, "#hate", threshold=0.0)
    assert scores(only, text)[0].flagged == ("hate",)


def test_labels_that_say_nothing_are_asked_for() -> None:
    assert unsafe_labels("m", {0: "non-toxic", 1: "toxic"}, []) == {1: "toxic"}
    assert unsafe_labels("m", {0: "OK", 1: "H", 2: "V2"}, []) == {1: "H", 2: "V2"}
    with pytest.raises(ConfigError, match="without meaning"):
        unsafe_labels("m", {0: "LABEL_0", 1: "LABEL_1"}, [])
    assert unsafe_labels("m", {0: "LABEL_0", 1: "LABEL_1"}, ["LABEL_1"]) == {1: "LABEL_1"}
    with pytest.raises(ConfigError, match="'toxik'"):
        unsafe_labels("m", {0: "safe", 1: "toxic"}, ["toxik"])


@pytest.mark.parametrize(
    ("text", "flagged"),
    [
        ("safe", ()),
        ("\n\nsafe", ()),
        ("unsafe\nS1,S10", ("S1", "S10")),
        ("unsafe", ("unsafe",)),
        ("Safety: Unsafe\nCategories: Violent", ("Violent",)),
        ("Safety: Controversial\nCategories: Politics\nRefusal: No", ("Politics",)),
        ("Safety: Safe\nCategories: None", ()),
    ],
)
def test_the_answers_of_chat_guards(text: str, flagged: tuple[str, ...]) -> None:
    said = read_answer(text)
    assert isinstance(said, Verdict) and said.flagged == flagged


@pytest.mark.parametrize("text", ["", "I cannot say.", "unsafely", "安全です"])
def test_what_is_no_answer_is_no_verdict(text: str) -> None:
    assert isinstance(read_answer(text), Unjudged)


def test_a_chat_guard_is_asked_about_answers_with_their_questions(tmp_path: Path) -> None:
    """A random model says neither word: no verdict, and a message too long for it is said so."""
    guard = named_moderator(f"guard:{tiny.build_model(tmp_path / 'm', 'qwen3')}")
    assert isinstance(guard, ChatGuard)
    asked = [
        Passage("yes", "assistant", "Who?"),
        Passage("a", "user"),
        Passage("so " * 400, "user"),
    ]
    said = guard.judge(asked)
    assert [isinstance(one, Unjudged) for one in said] == [True] * 3
    words = [one.words for one in said if isinstance(one, Unjudged)]
    assert "neither safe nor unsafe" in words[0] and "256" in words[2]


def test_guards_that_cannot_be(tmp_path: Path) -> None:
    model = tiny.build_model(tmp_path / "m", "qwen3")
    with pytest.raises(ConfigError, match="--threshold"):
        named_moderator(f"guard:{model}", threshold=0.5)
    with pytest.raises(ConfigError, match="text classifier"):
        named_moderator(f"guard:{model}#toxic")
    with pytest.raises(ModelError):
        named_moderator(f"guard:{tmp_path / 'none'}")
