"""Sections of the service: many tuned models answering on one base, and training on preferences."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench.inputs import chat_lengths, chat_rows, write_rows

from gpu_checks.lab import Lab, Row

METHODS = ("lora", "rslora", "dora", "qlora")
"""Two that share a batch with the base, one that needs a batch of its own, one on a 4-bit base."""


def serving(lab: Lab) -> Iterator[Row]:
    """Answers of the base and of tuned models, one after another and all at once."""
    from tanren.engine.loop import Engine
    from tanren.engine.wire import EngineSettings, Target

    base = lab.model("qwen3-0.6b")
    tuned = {name: _trained(lab, base, name) for name in METHODS}
    engine = Engine(
        EngineSettings(
            max_batch=64, batch_tokens=65_536, max_waiting=256, max_adapters=8, max_bases=2,
            max_tokens=512, threads=None,
        )
    )  # fmt: skip
    targets = {"base": Target(str(base), None, None)}
    targets |= {name: Target(str(base), None, str(folder)) for name, folder in tuned.items()}
    new = lab.pick(128, 6)
    prompts = _prompts(lab, lab.pick(64, 6))
    alone: dict[str, Any] = {}
    for name, target in targets.items():
        alone[name] = _answered(lab, engine, [(target, prompts[0])], new)
        served = engine.models.open(target)
        yield {
            "what": f"{name} alone",
            "batch of its own": served.alone,
            "tokens/s": alone[name]["tokens/s"],
            "first token, ms": alone[name]["first p50, ms"],
            "ok": served.alone == (name == "dora"),
        }
    one = [(targets["base"], prompt) for prompt in prompts]
    mixed_names = ["base", "lora", "rslora"]
    mixed = [(targets[mixed_names[i % 3]], prompt) for i, prompt in enumerate(prompts)]
    for what, asked in (("64 of the base", one), ("64 of base and two adapters", mixed)):
        found = _answered(lab, engine, asked, new)
        yield {
            "what": what,
            "tokens/s": found["tokens/s"],
            "times one alone": found["tokens/s"] / alone["base"]["tokens/s"],
            "first token, ms": found["first p50, ms"],
            "step, ms": found["step, ms"],
            "ok": found["finished"] == len(asked),
        }
    engine.unload(None)
    while not engine.idle:
        engine.step()
    lab.clear()
    yield {"what": "bytes after unloading", "bytes": _held(lab), "ok": _held(lab) < 2**28}


def _trained(lab: Lab, base: Path, method: str) -> Path:
    """The adapter of a run of a few steps."""
    from tanren import pipeline
    from tanren.config import load
    from tanren.rundir import RunDirectory

    words = min(8192, lab.numbers("qwen3-0.6b")["vocab_size"]) - 7
    lengths = chat_lengths(16, mean=lab.pick(200, 30), seed=3)
    data = write_rows(lab.work / "serving.jsonl", chat_rows(lengths, words=words, seed=3))
    config = load(
        None,
        base={
            "model": {"name": str(base)},
            "data": {"train": str(data)},
            "method": method,
            "training": {"max_steps": 3, "batch_size": 8},
            "evaluation": {"samples": 0},
        },
    )
    lab.clear()
    run = RunDirectory.create(lab.work / f"served-{method}", config)
    pipeline.execute(run)
    return run.adapter


def _prompts(lab: Lab, count: int) -> list[str]:
    words = min(8192, lab.numbers("qwen3-0.6b")["vocab_size"]) - 8
    drawn = np.random.default_rng(0).lognormal(4.5, 0.7, size=count)
    lengths = np.clip(drawn, 8, lab.pick(1000, 20))
    return [" ".join(f"w{i % words}" for i in range(int(n) + 4)) for n in lengths]


def _answered(
    lab: Lab, engine: Any, asked: Sequence[tuple[Any, str]], new_tokens: int
) -> dict[str, Any]:
    from tanren.engine.wire import ChatRequest, Failed, Finished, Piece

    began = time.perf_counter()
    for place, (target, prompt) in enumerate(asked):
        engine.submit(
            ChatRequest(
                f"{began}-{place}", target, ({"role": "user", "content": prompt},),
                temperature=0.0, max_tokens=new_tokens,
            )
        )  # fmt: skip
    first: dict[str, float] = {}
    tokens = finished = steps = 0
    while not engine.idle:
        for reply in engine.step():
            if isinstance(reply, Failed):
                raise RuntimeError(reply.message)
            if isinstance(reply, Piece):
                first.setdefault(reply.id, time.perf_counter() - began)
            if isinstance(reply, Finished):
                tokens += reply.completion_tokens
                finished += 1
        steps += 1
    lab.wait()
    seconds = time.perf_counter() - began
    return {
        "tokens/s": tokens / seconds,
        "first p50, ms": 1000 * statistics.median(first.values()) if first else None,
        "step, ms": 1000 * seconds / steps,
        "finished": finished,
    }


def _held(lab: Lab) -> int:
    import torch

    return int(torch.cuda.memory_allocated(lab.device)) if lab.cuda else 0


def preferences(lab: Lab) -> Iterator[Row]:
    """DPO through the whole pipeline: ln 2 at the first step, and a margin that grows."""
    from tanren import pipeline
    from tanren.config import load
    from tanren.rundir import RunDirectory

    base = lab.model("qwen3-0.6b")
    data = _preference_rows(lab)
    for method in ("lora", "qlora", "dora", "lora_plus"):
        if lab.seconds_left < 20:
            return
        config = load(
            None,
            base={
                "model": {"name": str(base)},
                "data": {"train": str(data)},
                "method": method,
                "objective": "dpo",
                "training": {
                    "max_steps": lab.pick(15, 4), "batch_size": 8, "learning_rate_multiplier": 4.0,
                },
                "evaluation": {"samples": 0},
            },
        )  # fmt: skip
        lab.clear()
        run = RunDirectory.create(lab.work / f"preferences-{method}", config)
        result = pipeline.execute(run)
        steps = [event for event in run.events() if event["event"] == "step"]
        off = abs(steps[0]["loss"] - math.log(2))
        yield {
            "method": method,
            "first loss - ln 2": off,
            "margin first": steps[0]["reward_margin"],
            "margin last": steps[-1]["reward_margin"],
            "tokens/s": result["tokens_per_second"],
            "seconds": result["seconds"]["all"],
            "ok": off < 1e-3 and steps[-1]["reward_margin"] > 0 and result["proof"]["passed"],
        }


def _preference_rows(lab: Lab) -> Path:
    """Pairs that differ in all their words."""
    words = min(8192, lab.numbers("qwen3-0.6b")["vocab_size"]) - 7
    lengths = chat_lengths(lab.pick(64, 16), mean=lab.pick(200, 30), seed=5)
    chats = list(chat_rows(lengths, words=words, seed=5))
    other = list(chat_rows(lengths, words=words, seed=6))
    rows = [
        {
            "input": {"messages": chat["messages"][:-1]},
            "preferred_output": [chat["messages"][-1]],
            "non_preferred_output": [rejected["messages"][-1]],
        }
        for chat, rejected in zip(chats, other, strict=True)
    ]
    path = lab.work / "preferences.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path
