"""Runs in an interpreter that has llama_cpp, as its own process: llama.cpp ends its process
on files that it dislikes. Imports nothing of ours: that interpreter may have nothing else.

Reads a job as JSON from its standard input, `{"work": "answer" | "quantise", ...}`, and writes what
it found to the file named in it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import llama_cpp
import numpy as np


def answer(job: dict[str, Any]) -> None:
    """Logits (time, vocab) of every prompt, ids of every text, and the ids that end an answer."""
    prompts: list[list[int]] = job["prompts"]
    longest = max([len(prompt) for prompt in prompts], default=0)
    model = llama_cpp.Llama(
        job["model"],
        n_ctx=max(longest, job["context"] or 0, 32),
        n_batch=max(longest, 32),
        n_threads=1,
        n_gpu_layers=0,
        logits_all=bool(prompts),
        vocab_only=not prompts,
        lora_path=job["lora"],
        verbose=False,
        # float16 keys and values would hide what is being compared
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        flash_attn=False,
        # -1: as the file says
        yarn_attn_factor=-1.0,
        yarn_beta_fast=-1.0,
        yarn_beta_slow=-1.0,
    )
    found: dict[str, Any] = {}
    for number, prompt in enumerate(prompts):
        model.reset()
        model.eval(prompt)
        found[f"logits{number}"] = np.array(model.scores[: len(prompt)], dtype=np.float32)
    special = job["add_special"]
    for number, text in enumerate(job["texts"]):
        ids = model.tokenize(text.encode("utf-8"), add_bos=special, special=True)
        found[f"ids{number}"] = np.array(ids, dtype=np.int64)
    vocabulary = llama_cpp.llama_model_get_vocab(model.model)
    ends = [i for i in range(model.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocabulary, i)]
    found["stops"] = np.array(ends, dtype=np.int64)
    np.savez(job["answer"], **found)


def quantise(job: dict[str, Any]) -> None:
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{job['kind']}")
    settings.nthread = job["threads"]
    failed = llama_cpp.llama_model_quantize(
        job["model"].encode("utf-8"), job["target"].encode("utf-8"), settings
    )
    if failed:
        raise SystemExit(f"llama_model_quantize ended with {failed}")


if __name__ == "__main__":
    task = json.load(sys.stdin)
    {"answer": answer, "quantise": quantise}[task["work"]](task)
