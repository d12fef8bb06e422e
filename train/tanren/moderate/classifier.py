"""A text classifier as a moderator: every message in windows of the model's length."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from tanren.data.screen.moderator import Passage, Unjudged, Verdict
from tanren.errors import ConfigError, Fault, ModelError
from tanren.model import Source, device, load_tokenizer
from tanren.moderate.remote import above

BATCH_TOKENS = 16_384
"""Most tokens of one batch, padding included."""
_MOST_WINDOW = 512
_SAFE_NAME = re.compile(
    r"(?:safe|ok|neutral|benign|normal|clean|none|other|positive|(?:non|not|no)[-_ ].+|"
    r"nontoxic|harmless|acceptable|sfw)",
    re.IGNORECASE,
)
_NO_NAME = re.compile(r"LABEL_[0-9]+")


@dataclass(frozen=True)
class Classifier:
    """`unsafe` names the labels by their places. A message is as unsafe as its worst window."""

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    unsafe: Mapping[int, str]
    threshold: float
    window: int
    """Tokens of one window, special ones included."""

    def judge(self, passages: Sequence[Passage]) -> Sequence[Verdict | Unjudged]:
        windows = [
            (place, ids) for place, p in enumerate(passages) for ids in self._windows(p.text)
        ]
        scores: list[dict[str, float]] = [{} for _ in passages]
        for batch in _batches(sorted(windows, key=lambda window: len(window[1]))):
            for (place, _), row in zip(batch, self._scores([ids for _, ids in batch]), strict=True):
                for number, label in self.unsafe.items():
                    best = max(scores[place].get(label, 0.0), row[number])
                    scores[place][label] = best
        return [Verdict(found, above(found, self.threshold)) for found in scores]

    def _windows(self, text: str) -> Iterator[list[int]]:
        """Windows that overlap by a quarter, so that nothing falls between two of them."""
        room = self.window - self.tokenizer.num_special_tokens_to_add()
        parts = self.tokenizer(
            text,
            truncation=True,
            max_length=self.window,
            stride=max(0, min(room - 1, room // 4)),
            return_overflowing_tokens=True,
        )
        yield from (ids for ids in parts["input_ids"] if ids)

    def _scores(self, rows: Sequence[list[int]]) -> list[list[float]]:
        """Probabilities, (rows, labels): each label for itself in a multi-label model."""
        longest = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        with torch.inference_mode():
            where = self.model.device
            logits = self.model(input_ids=ids.to(where), attention_mask=mask.to(where)).logits
        many = self.model.config.problem_type == "multi_label_classification"
        single = logits.shape[-1] == 1
        shares = logits.float().sigmoid() if many or single else logits.float().softmax(-1)
        return shares.tolist()


def _batches(windows: Sequence[tuple[int, list[int]]]) -> Iterator[list[tuple[int, list[int]]]]:
    """Of like length, so that little is padding. `windows` are sorted by length."""
    batch: list[tuple[int, list[int]]] = []
    for window in windows:
        if batch and (len(batch) + 1) * len(window[1]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def load_classifier(source: Source, labels: Sequence[str], *, threshold: float) -> Classifier:
    """Raises ModelError where the files are no classifier, ConfigError for unknown labels."""
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            source.path,
            dtype=torch.float32,
            device_map={"": device()},
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (ValueError, KeyError, OSError) as error:
        found = f"a model that could not be loaded ({str(error).strip().splitlines()[0][:160]})"
        fault = Fault(source.name, found, "a text classifier", "check the folder")
        raise ModelError.of(fault) from error
    model.eval()
    tokenizer = load_tokenizer(source)
    if model.config.pad_token_id is None:  # decoders look for the last token that is no padding
        model.config.pad_token_id = tokenizer.pad_token_id
    most = int(source.config.get("max_position_embeddings") or _MOST_WINDOW)
    return Classifier(
        name=source.name,
        model=model,
        tokenizer=tokenizer,
        unsafe=unsafe_labels(source.name, model.config.id2label, labels),
        threshold=threshold,
        window=min(most, _MOST_WINDOW),
    )


def unsafe_labels(name: str, names: Mapping[int, str], wanted: Sequence[str]) -> dict[int, str]:
    """Which labels mean harm: those asked for, or all whose names do not say that all is well."""
    known = {int(number): str(label) for number, label in names.items()}
    unknown = [label for label in wanted if label not in known.values()]
    if unknown:
        expected = " | ".join(known.values())
        found = ", ".join(map(repr, unknown))
        raise ConfigError.of(Fault(f"guard:{name}", found, expected, "write labels it has"))
    if wanted:
        return {number: label for number, label in known.items() if label in wanted}
    if all(_NO_NAME.fullmatch(label) for label in known.values()):
        remedy = f"name those that mean harm: guard:{name}#LABEL_1"
        found = f"labels without meaning ({', '.join(known.values())})"
        raise ConfigError.of(Fault(f"guard:{name}", found, "labels with names", remedy))
    return {n: label for n, label in known.items() if not _SAFE_NAME.fullmatch(label)}
