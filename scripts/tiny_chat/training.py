"""Pretraining: dialogues to packed rows, rows to weights, weights to a held-out loss."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tiny_chat.corpus import Dialogue
from tiny_chat.tokenizer import CONTEXT

ROW_LENGTH = 512
ROWS_PER_STEP = 8
OPEN_ROWS = 32
# Users' words are mostly drawn at random: foreseeing them is worth less than answering them.
PROMPT_WEIGHT = 0.2
PEAK_RATE = 4e-3

_REPLY = re.compile(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one dialogue, and for each whether it is part of a reply or its end of turn."""

    ids: list[int]
    in_reply: list[bool]


@dataclass(frozen=True, slots=True)
class Rows:
    """Packed dialogues, all tensors (rows, time). Positions restart at 0 with each dialogue."""

    input_ids: Tensor
    position_ids: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, chosen: Tensor | slice) -> Rows:
        return Rows(self.input_ids[chosen], self.position_ids[chosen], self.weights[chosen])


@dataclass(frozen=True, slots=True)
class _Row:
    ids: list[int]
    positions: list[int]
    weights: list[float]

    def append(self, one: Encoded, prompt_weight: float) -> None:
        self.ids.extend(one.ids)
        self.positions.extend(range(len(one.ids)))
        self.weights.extend([0.0, *(1.0 if reply else prompt_weight for reply in one.in_reply[1:])])

    def padded(self, pad_id: int) -> _Row:
        gap = ROW_LENGTH - len(self.ids)
        return _Row(
            self.ids + [pad_id] * gap, self.positions + list(range(gap)), self.weights + [0.0] * gap
        )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=4,
        intermediate_size=768,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    return Qwen3ForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, dialogues: Sequence[Dialogue]) -> list[Encoded]:
    texts = [
        tokenizer.apply_chat_template(d.messages, tools=d.tools, tokenize=False) for d in dialogues
    ]
    encoded = []
    for text, encoding in zip(texts, tokenizer.backend_tokenizer.encode_batch(texts), strict=True):
        spans = [match.span(1) for match in _REPLY.finditer(text)]
        in_reply = [any(a <= start < b for a, b in spans) for start, _ in encoding.offsets]
        encoded.append(Encoded(encoding.ids, in_reply))
    return encoded


def pack(encoded: Sequence[Encoded], pad_id: int, reply_only: bool = False) -> Rows:
    """Each dialogue goes whole into the first of some open rows that has room; raises if none can.

    A token's weight is that of predicting it from the tokens before it: 0 for padding and for the
    first token of a dialogue.
    """
    closed: list[_Row] = []
    opened: list[_Row] = []
    for one in encoded:
        if len(one.ids) > ROW_LENGTH:
            raise ValueError(f"a dialogue has {len(one.ids)} tokens, a row only {ROW_LENGTH}")
        row = next((row for row in opened if len(row.ids) + len(one.ids) <= ROW_LENGTH), None)
        if row is None:
            if len(opened) == OPEN_ROWS:
                closed.append(opened.pop(max(range(OPEN_ROWS), key=lambda i: len(opened[i].ids))))
            row = _Row([], [], [])
            opened.append(row)
        row.append(one, 0.0 if reply_only else PROMPT_WEIGHT)
    rows = [row.padded(pad_id) for row in closed + opened]
    return Rows(
        torch.tensor([row.ids for row in rows]),
        torch.tensor([row.positions for row in rows]),
        torch.tensor([row.weights for row in rows]),
    )


def weighted_loss(model: Qwen3ForCausalLM, rows: Rows) -> tuple[Tensor, Tensor]:
    """(sum of weighted cross-entropies, sum of weights). Only positions that count reach the head.

    No attention mask: transformers derives from the restarting positions that dialogues of one row
    must not see each other.
    """
    hidden = model.model(
        input_ids=rows.input_ids, position_ids=rows.position_ids, use_cache=False
    ).last_hidden_state
    weights = rows.weights[:, 1:]
    counted = weights > 0
    logits = model.lm_head(hidden[:, :-1][counted])
    losses = functional.cross_entropy(
        logits.float(), rows.input_ids[:, 1:][counted], reduction="none"
    )
    return (losses * weights[counted]).sum(), weights.sum()


@torch.no_grad()
def held_out_loss(model: Qwen3ForCausalLM, rows: Rows) -> float:
    """Mean cross-entropy per weighted token, in nats, in the model's own precision."""
    model.eval()
    total, count = 0.0, 0.0
    for start in range(0, len(rows), ROWS_PER_STEP):
        loss, weight = weighted_loss(model, rows[start : start + ROWS_PER_STEP])
        total += loss.item()
        count += weight.item()
    model.train()
    return total / count


def _batches(rows: Rows, steps: int, seed: int) -> Iterator[Rows]:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows), generator=generator)
    for step in range(steps):
        if (step + 1) * ROWS_PER_STEP > len(order):
            order = torch.cat([order, torch.randperm(len(rows), generator=generator)])
        yield rows[order[step * ROWS_PER_STEP : (step + 1) * ROWS_PER_STEP]]


def _optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the layers' matrices, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=PEAK_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(step: int, steps: int) -> float:
    """Share of the peak rate: linear warm-up over 40 steps, then a cosine down to 2%."""
    warmup = min(1.0, (step + 1) / 40)
    return warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def train(
    model: Qwen3ForCausalLM,
    rows: Rows,
    steps: int,
    seed: int,
) -> None:
    """Trains in place with bf16 autocast over fp32 weights; says on stderr how it goes."""
    model.train()
    optimizers = _optimizers(model)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    began, recent = time.monotonic(), 0.0
    for step, batch in enumerate(_batches(rows, steps, seed)):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            loss, weight = weighted_loss(model, batch)
        (loss / weight).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        recent += (loss / weight).item()
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - began
            print(
                f"step {step + 1}/{steps} loss {recent / 50:.4f} {seconds:.0f} s", file=sys.stderr
            )
            recent = 0.0


def spread_unseen(model: Qwen3ForCausalLM, ids: Tensor, seed: int, fewest: int = 3) -> int:
    """Give tokens that training hardly showed a direction of their own; returns how many.

    Training only pushes such tokens away from every text, all in the same direction, until their
    embeddings are nearly one vector (cosine 0.9 between neighbours). Tuning that leaves embeddings
    alone could then never tell one from another. The common part stays, so that they are as
    unlikely as before; what differs is drawn anew, of length 1, near that of trained tokens.
    """
    weight = model.model.embed_tokens.weight.data
    shown = torch.bincount(ids.flatten(), minlength=len(weight))
    unseen = (shown < fewest).nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(seed)
    fresh = torch.randn(len(unseen), weight.shape[1], generator=generator)
    weight[unseen] = weight[unseen].mean(dim=0) + torch.nn.functional.normalize(fresh, dim=1)
    return len(unseen)
