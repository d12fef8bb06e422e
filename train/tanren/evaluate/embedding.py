"""Texts as vectors, by a text encoder that the user names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from tanren import privacy
from tanren.config import ModelConfig
from tanren.model import device, locate

privacy.apply()

from transformers import AutoModel, AutoTokenizer  # noqa: E402 - telemetry must be off before

if TYPE_CHECKING:
    from tanren.evaluate.metrics.similarity import Embed

BATCH = 32
MOST_TOKENS = 512


def text_encoder(name: str) -> Embed:
    """Means of the last hidden states over a text's tokens (at most 512), float32. Raises
    ModelError where there is no such model.
    """
    source = locate(ModelConfig(name=name))
    tokenizer = AutoTokenizer.from_pretrained(source.path, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModel.from_pretrained(
        source.path, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    model = model.to(device()).eval()

    def embed(texts: list[str]) -> np.ndarray:
        parts = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
        return np.concatenate([_means(part) for part in parts])

    def _means(texts: list[str]) -> np.ndarray:
        inputs = tokenizer(
            texts, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
        ).to(model.device)
        with torch.no_grad():
            states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        means = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        vectors: np.ndarray = means.float().cpu().numpy()
        return vectors

    return embed
