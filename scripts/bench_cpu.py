"""Step time and memory on CPUs: tanren beside a hand-written loop and plain TRL.

    python scripts/bench_cpu.py                       both types, 63 steps each: about half an hour
    python scripts/bench_cpu.py --clock cpu --threads 1 --steps 8     usable on a busy machine
    python scripts/bench_cpu.py --tiny                checks the script itself in seconds

Four contestants train the same 26 M model on the same rows in turns (see `bench/turns.py`). Ratios
are medians over rounds; a round in which other processes used more than `--max-others` of the
cores is left out, and counted. Their losses and adapters are compared, so that nobody is fast by
not learning.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench import report
from bench.children import measured
from bench.job_overhead import overhead
from bench.turns import Contestant

CONTESTANTS = ("hand", "trl-default", "trl-tuned", "tanren")
TARGETS = {
    ("hand", "float32"): 1.02,
    ("hand", "bfloat16"): 1.00,
    ("trl-default", "float32"): 1 / 1.7,
    ("trl-default", "bfloat16"): 1 / 1.7,
    ("trl-tuned", "float32"): 1 / 1.3,
    ("trl-tuned", "bfloat16"): 1 / 1.3,
}
"""tanren's step time divided by theirs, at most."""
HOW_BF16 = {
    "hand": "base in bf16, adapter in float32, autocast",
    "trl-default": "base in float32, adapter in float32, autocast (its default)",
    "trl-tuned": "base in bf16, adapter in float32, autocast",
    "tanren": "base in bf16, adapter in float32, autocast",
}
HAND_PARTS = {"float32": 8, "bfloat16": 4}
"""The hand loop at its best here: of 1, 2, 4 and 8 length-sorted parts of a batch of 8 rows, these
were fastest (one padded batch took more than twice as long).
"""
LOSS_AGREEMENT = 0.01
LOSS_MEMORY_TARGET = 1 / 4
FEWEST_ROUNDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    began = time.monotonic()
    result: dict[str, Any] = {"options": vars(options).copy(), **report.circumstances()}
    parts = []
    for name, section in sections(options).items():
        print(f"... {name}", file=sys.stderr, flush=True)
        result[name], text = section()
        parts.append(text)
    result["seconds"] = round(time.monotonic() - began, 1)
    title = f"# CPU measurements\n\n{report.footer(result)}. "
    title += f"Clock: {options.clock}, threads: {options.threads}."
    report.write(
        report.output_folder(options.out), "bench_cpu", result, "\n\n".join([title, *parts])
    )
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--clock", choices=("wall", "cpu"), default="wall", help="cpu: own seconds of all threads")
    add("--threads", type=int, default=2, help="threads of each contestant")
    add("--steps", type=int, default=63, help="optimizer steps, the first is not timed")
    add("--rows", type=int, default=500, help="chat rows made")
    add("--batch-size", type=int, default=8, help="rows per step")
    add("--rank", type=int, default=16)
    add("--learning-rate", type=float, default=1e-3)
    add("--seed", type=int, default=0)
    add("--dtype", choices=("float32", "bfloat16"), nargs="+", default=["float32", "bfloat16"])
    add("--contestants", choices=CONTESTANTS, nargs="+", default=list(CONTESTANTS))
    add("--sections", choices=("steps", "loss", "overhead"), nargs="+")
    add("--hand-parts", type=int, help="length-sorted parts of the hand loop's batch")
    add("--hand-float32-base", action="store_true", help="the hand loop keeps its base in float32")
    add("--trl-padded", action="store_true", help="trl-tuned pads instead of padding_free")
    add("--max-others", type=float, help="share of cores others may use (wall 0.05, cpu 1)")
    add("--out", type=Path, default=Path("docs/measured"))
    add("--tiny", action="store_true", help="tiny sizes, one type, a few steps")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.steps, options.rows, options.batch_size, options.rank = 3, 12, 4, 4
        options.threads, options.dtype = 1, options.dtype[:1]
    if options.max_others is None:
        options.max_others = 0.05 if options.clock == "wall" else 1.0
    options.sections = options.sections or ["steps", "loss", "overhead"]
    return options


def sections(options: argparse.Namespace) -> dict[str, Callable[[], tuple[Any, str]]]:
    found: dict[str, Callable[[], tuple[Any, str]]] = {}
    if "steps" in options.sections:
        for dtype in options.dtype:
            found[f"steps_{dtype}"] = partial(step_times, options, dtype)
    if "loss" in options.sections:
        found["loss_memory"] = partial(loss_memory, options)
    if "overhead" in options.sections:
        found["overhead"] = partial(
            overhead, rows=4 if options.tiny else 50, threads=options.threads
        )
    return found


# --- step times -----------------------------------------------------------------------------------


def step_times(options: argparse.Namespace, dtype: str) -> tuple[dict[str, Any], str]:
    """All contestants, in turns; ratios of tanren to each."""
    with tempfile.TemporaryDirectory(prefix="bench-cpu-") as folder:
        spec = prepare(options, dtype, Path(folder))
        contestants: list[Contestant] = []
        try:
            for name in options.contestants:
                own = {**spec, "kind": name, **own_settings(options, name, dtype)}
                contestants.append(
                    Contestant(name, "bench.contestants", own, threads=options.threads)
                )
            for contestant in contestants:  # they import and load side by side
                contestant.prepare()
            for number in range(spec["steps"]):
                for contestant in contestants:
                    contestant.step()
                print(f"    round {number + 1} of {spec['steps']}", file=sys.stderr, flush=True)
            for contestant in contestants:
                contestant.finish()
            return judge(options, dtype, contestants)
        finally:
            for contestant in contestants:
                contestant.close()


def own_settings(options: argparse.Namespace, name: str, dtype: str) -> dict[str, Any]:
    if name == "hand":
        parts = options.hand_parts or HAND_PARTS[dtype]
        return {"parts": parts, "bf16_weights": not options.hand_float32_base}
    if name == "trl-tuned":
        return {"padding_free": not options.trl_padded}
    return {}


def prepare(options: argparse.Namespace, dtype: str, folder: Path) -> dict[str, Any]:
    """Model and rows on disk; the encoded rows in tanren's order, for those who do not read
    chats.
    """
    from bench.inputs import (
        BENCH_MODEL,
        TINY_MODEL,
        chat_lengths,
        chat_rows,
        save_model,
        write_rows,
    )

    shape = TINY_MODEL if options.tiny else BENCH_MODEL
    save_model(folder / "model", shape, seed=options.seed)
    lengths = chat_lengths(options.rows, mean=40 if options.tiny else 130, seed=options.seed)
    words = shape["vocab_size"] - 7
    write_rows(folder / "rows.jsonl", chat_rows(lengths, words=words, seed=options.seed))
    ordered = encoded_in_order(options, folder)
    (folder / "rows.json").write_text(json.dumps(ordered), encoding="utf-8")
    return {
        "work": str(folder),
        "model": str(folder / "model"),
        "data": str(folder / "rows.jsonl"),
        "rows": str(folder / "rows.json"),
        "dtype": dtype,
        "steps": min(options.steps, -(-options.rows // options.batch_size)),
        "batch_size": options.batch_size,
        "rank": options.rank,
        "learning_rate": options.learning_rate,
        "threads": options.threads,
        "seed": options.seed,
    }


def encoded_in_order(
    options: argparse.Namespace, folder: Path
) -> list[tuple[list[int], list[int]]]:
    from tanren.batches import StepOrder
    from tanren.data.read import ChatReader
    from tanren.encode import EncodeSettings, encode
    from tanren.model import load_tokenizer_from
    from tanren.template import ChatRenderer

    renderer = ChatRenderer(load_tokenizer_from(folder / "model"))
    encoded, _ = encode(
        ChatReader(folder / "rows.jsonl"), renderer, EncodeSettings(model_max_length=4096)
    )
    order = StepOrder(len(encoded), options.batch_size, options.seed).order()
    return [(ids.tolist(), labels.tolist()) for ids, labels in map(encoded.row, order.tolist())]


def judge(
    options: argparse.Namespace, dtype: str, contestants: list[Contestant]
) -> tuple[dict[str, Any], str]:
    """Ratios over the rounds that count, memory, and the proof that all learned the same."""
    rounds = list(zip(*(c.turns for c in contestants), strict=True))
    timed = rounds[1:]  # the first warms caches up
    kept = [turns for turns in timed if max(t.others for t in turns) <= options.max_others]
    enough = len(kept) >= min(FEWEST_ROUNDS, len(timed))
    counted = kept if enough else timed
    names = [c.name for c in contestants]
    seconds = {
        name: [getattr(turns[i], options.clock) for turns in counted]
        for i, name in enumerate(names)
    }
    result: dict[str, Any] = {
        "rounds": len(timed),
        "max_others": options.max_others,
        "rounds_kept": len(kept),
        "rounds_counted": len(counted),
        "others_median": statistics.median(t.others for turns in timed for t in turns),
        "how_bf16": {n: HOW_BF16[n] for n in names} if dtype == "bfloat16" else None,
        "learning": learning(contestants),
        "contestants": {},
    }
    for contestant in contestants:
        own = seconds[contestant.name]
        pairs = list(zip(seconds["tanren"], own, strict=True)) if "tanren" in seconds else []
        ratio = statistics.median(a / b for a, b in pairs) if pairs else None
        target = TARGETS.get((contestant.name, dtype))
        result["contestants"][contestant.name] = {
            "step_seconds": statistics.median(own),
            "tanren_ratio": ratio,
            "target": target,
            "reached": None if ratio is None or target is None else ratio <= target,
            "peak_rss_bytes": contestant.facts["peak_rss_bytes"],
            "step_rss_bytes": contestant.facts["peak_rss_bytes"]
            - contestant.facts["ready_rss_bytes"],
            "turns": [[t.wall, t.cpu, t.loss, t.others] for t in contestant.turns],
            "facts": contestant.facts,
        }
    return result, step_text(dtype, result, enough=enough)


def learning(contestants: list[Contestant]) -> dict[str, Any]:
    """Losses against the first contestant's, and how far adapters moved and agree."""
    from safetensors.torch import load_file

    reference = contestants[0]
    adapters = {c.name: load_file(c.facts["adapter"]) for c in contestants}
    found: dict[str, Any] = {}
    for contestant in contestants:
        adapter = adapters[contestant.name]
        moved = [name for name, tensor in adapter.items() if "lora_B" in name and tensor.any()]
        total = [name for name in adapter if "lora_B" in name]
        gaps = [
            abs(mine.loss - theirs.loss) / abs(theirs.loss)
            for mine, theirs in zip(contestant.turns, reference.turns, strict=True)
        ]
        found[contestant.name] = {
            "losses": [t.loss for t in contestant.turns],
            "largest_gap": max(gaps),
            "agrees": max(gaps) <= LOSS_AGREEMENT,
            "b_matrices_moved": f"{len(moved)} of {len(total)}",
            "all_moved": len(moved) == len(total) > 0,
            "cosine": cosine(adapter, adapters[reference.name]),
        }
    return found


def cosine(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Of all B matrices laid end to end (they start at zero, so they are the whole update's
    direction).
    """
    import torch

    names = sorted(name for name in one if "lora_B" in name)
    a = torch.cat([one[name].flatten() for name in names])
    b = torch.cat([other[name].flatten() for name in names])
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def step_text(dtype: str, result: dict[str, Any], *, enough: bool) -> str:
    rows = []
    for name, found in result["contestants"].items():
        learned = result["learning"][name]
        rows.append(
            [
                name,
                found["step_seconds"],
                found["tanren_ratio"],
                found["target"],
                found["reached"],
                found["peak_rss_bytes"] / 2**20,
                found["step_rss_bytes"] / 2**20,
                f"{learned['losses'][0]:.4f} → {learned['losses'][-1]:.4f}",
                f"{learned['largest_gap']:.2%}",
                learned["cosine"],
                learned["b_matrices_moved"],
            ]
        )
    header = ["", "s/step", "tanren's time ÷ this", "at most", "reached", "peak MiB", "of it steps"]
    header += ["loss first → last", "largest gap to the first line", "cosine of B", "B moved"]
    kept = f"{result['rounds_kept']} of {result['rounds']} rounds kept: "
    kept += f"others may use {result['max_others']:.0%}"
    if not enough:
        kept += "; that is too few, so ALL rounds are counted and the times are unreliable"
    kept += f" (their median share was {result['others_median']:.0%})."
    lines = [f"## Step time, {dtype}", report.table(header, rows), kept]
    if result["how_bf16"]:
        lines.append("bf16: " + "; ".join(f"{n}: {how}" for n, how in result["how_bf16"].items()))
    return "\n\n".join(lines)


# --- memory of the loss ---------------------------------------------------------------------------


def loss_memory(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Peak memory above the inputs of forward and backward of the loss, each in its own process."""
    vocabulary, positions, width = (4096, 512, 64) if options.tiny else (151_936, 2048, 1024)
    result: dict[str, Any] = {"vocabulary": vocabulary, "positions": positions, "width": width}
    rows = []
    for dtype in options.dtype:
        found = {
            kind: measure_loss(options, kind, dtype, vocabulary, positions, width)
            for kind in ("full", "chunked")
        }
        ratio = found["chunked"]["bytes"] / found["full"]["bytes"]
        agree = abs(found["chunked"]["loss"] / found["full"]["loss"] - 1)
        result[dtype] = {**found, "ratio": ratio, "loss_gap": agree}
        rows.append(
            [
                dtype,
                found["full"]["bytes"] / 2**20,
                found["chunked"]["bytes"] / 2**20,
                ratio,
                ratio <= LOSS_MEMORY_TARGET,
                found["full"]["cpu"],
                found["chunked"]["cpu"],
                f"{agree:.1e}",
            ]
        )
    header = [
        "",
        "full logits MiB",
        "ours MiB",
        "ratio",
        "≤ 1/4",
        "full CPU s",
        "ours CPU s",
        "gap",
    ]
    title = f"## Memory of the loss, {vocabulary:,} words, {positions:,} positions, all labelled"
    return result, f"{title}\n\n{report.table(header, rows)}"


def measure_loss(
    options: argparse.Namespace, kind: str, dtype: str, vocabulary: int, positions: int, width: int
) -> dict[str, float]:
    words = [kind, dtype, str(vocabulary), str(positions), str(width)]
    done = measured(["-m", "bench.loss_memory", *words], threads=options.threads)
    return dict(json.loads(done.output.splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main())
