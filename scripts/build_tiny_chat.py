"""Builds the tiny chat model under data/tiny-chat from dialogues that this project writes itself.

    python scripts/build_tiny_chat.py            build into data/tiny-chat
    python scripts/build_tiny_chat.py --check    verify the committed files and that the model loads

The same versions, thread count and processor type give the same weights; the model card names them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from itertools import islice
from pathlib import Path

# One thread sums in one order. It must be said before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tiny_chat.card import Facts, check, sample_answers, write_card
from tiny_chat.corpus import dialogues, split
from tiny_chat.tokenizer import train_tokenizer
from tiny_chat.training import encode, held_out_loss, new_model, pack, spread_unseen, train
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

DESTINATION = Path(__file__).resolve().parent.parent / "data" / "tiny-chat"
SEED = 20
VOCABULARY = 4096
TOKENIZER_DIALOGUES = 5_000
TRAINING_DIALOGUES = 120_000
HELD_OUT_DIALOGUES = 1_000


def tokenizer_from_dialogues() -> PreTrainedTokenizerFast:
    """Depends on nothing but the grammars and the character list."""
    chosen = islice(dialogues(SEED), TOKENIZER_DIALOGUES)
    return train_tokenizer((m["content"] for d in chosen for m in d.messages), VOCABULARY)


def generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    return GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Weights are stored in bf16: half the size, and the loss differs by less than a thousandth."""
    model.generation_config = generation_config(tokenizer)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    for path in out.iterdir():
        path.chmod(0o644)


def build(steps: int, out: Path) -> None:
    torch.set_num_threads(1)
    began = time.monotonic()
    tokenizer = tokenizer_from_dialogues()
    training, held_out = split(SEED, TRAINING_DIALOGUES, HELD_OUT_DIALOGUES)
    encoded = encode(tokenizer, training)
    rows = pack(encoded, tokenizer.pad_token_id)
    held_out_rows = pack(encode(tokenizer, held_out), tokenizer.pad_token_id, reply_only=True)
    tokens = sum(len(one.ids) for one in encoded)
    print(f"{len(training)} dialogues, {tokens} tokens, {len(rows)} rows", file=sys.stderr)
    model = new_model(tokenizer, SEED)
    train(model, rows, steps, SEED)
    unseen = spread_unseen(model, rows.input_ids, SEED)
    print(f"{unseen} tokens hardly shown, spread anew", file=sys.stderr)
    full_precision_loss = held_out_loss(model, held_out_rows)
    save(model, tokenizer, out)
    stored = Qwen3ForCausalLM.from_pretrained(out, dtype=torch.float32)
    facts = Facts(
        steps=steps,
        seconds=time.monotonic() - began,
        dialogues=len(training),
        tokens=tokens,
        rows=len(rows),
        held_out_dialogues=len(held_out),
        loss_before_rounding=full_precision_loss,
        loss_stored=held_out_loss(stored, held_out_rows),
        loss_bf16=held_out_loss(stored.to(torch.bfloat16), held_out_rows),
        samples=sample_answers(stored.to(torch.float32), tokenizer),
    )
    write_card(out, facts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=1_600, help="optimizer steps of 4,096 tokens")
    parser.add_argument("--out", type=Path, default=DESTINATION, help="directory to write")
    parser.add_argument("--check", action="store_true", help="verify --out instead of building it")
    arguments = parser.parse_args()
    if arguments.check:
        return check(arguments.out)
    build(arguments.steps, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
