"""How fast a model is merged and written as GGUF, beside copying its files.

    python scripts/bench_export.py                 1.5 GB in bfloat16, in 4 files
    python scripts/bench_export.py --layers 28     3 GB
    python scripts/bench_export.py --tiny          checks the script itself in seconds

Copies and steps take turns; each ratio is the median over the rounds of copy time / step time, both
flushed to disk. Weights are random: they measure speed and memory, nothing else.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import report
from bench.children import measured

MERGE_TARGET = 0.6
"""Speed of merging as a share of the speed of copying the same files."""
MEMORY_TARGET = 1.2
"""Peak memory, as a multiple of the largest file, beyond the adapter."""
STEPS = {
    "merge LoRA": ("merge", "lora"),
    "merge DoRA": ("merge", "dora"),
    "merge QLoRA": ("merge-nf4", "lora"),
    "GGUF bf16": ("gguf-bf16", "lora"),
    "GGUF f16": ("gguf-f16", "lora"),
    "GGUF q8_0": ("gguf-q8_0", "lora"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    result: dict[str, Any] = {"options": vars(options).copy(), **report.circumstances()}
    with tempfile.TemporaryDirectory(prefix="bench-export-", dir=options.work) as folder:
        base, adapters = make(Path(folder), options)
        files = sorted(base.glob("*.safetensors"))
        result["base_bytes"] = sum(file.stat().st_size for file in files)
        result["largest_file_bytes"] = max(file.stat().st_size for file in files)
        result["files"] = len(files)
        result["adapter_bytes"] = adapters["lora"].stat().st_size
        result["steps"] = rounds(options, base, {k: f.parent for k, f in adapters.items()})
    report.write(report.output_folder(options.out), "bench_export", result, markdown(result))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--layers", type=int, default=12, help="of 2,048 wide; each is 101 MB")
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=2)
    add("--work", type=Path, default=None, help="folder on the disk to measure")
    add("--out", type=Path, default=Path("docs/measured"))
    add("--tiny", action="store_true", help="tiny sizes")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.layers, options.rounds = 1, 1
    return options


def make(folder: Path, options: argparse.Namespace) -> tuple[Path, dict[str, Path]]:
    """The base in several files, and for each method the file of an adapter of rank 16."""
    import torch
    from bench.inputs import random_model

    from tanren.config import ModelConfig
    from tanren.methods import METHODS
    from tanren.model import locate

    wide = 128 if options.tiny else 2048
    words = 4096 if options.tiny else 65_536
    config = {
        "model_type": "qwen3",
        "hidden_size": wide,
        "intermediate_size": 3 * wide,
        "num_hidden_layers": options.layers,
        "num_attention_heads": wide // 128,
        "num_key_value_heads": max(1, wide // 256),
        "head_dim": 128,
        "vocab_size": words,
        "tie_word_embeddings": True,
    }
    base = folder / "base"
    model = random_model(config, dtype=torch.bfloat16)
    model.save_pretrained(base, max_shard_size="1MB" if options.tiny else "400MB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(report.REPOSITORY / "data" / "tiny-chat" / name, base / name)
    source = locate(ModelConfig(name=str(base)))
    files = {}
    for name in ("lora", "dora"):
        files[name] = adapter(folder / name, source, METHODS[name]())
    return base, files


def adapter(folder: Path, source: Any, method: Any) -> Path:
    """An adapter with small random numbers on every linear layer."""
    from tanren.adapter import add_adapter, save_adapter
    from tanren.config import ModelConfig
    from tanren.model import load_base

    config = ModelConfig.model_validate({"name": source.name, "dtype": "bfloat16"})
    adapted = add_adapter(load_base(source, method, config), source, method, seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.01)
    save_adapter(adapted, folder)
    return folder / "adapter_model.safetensors"


def rounds(
    options: argparse.Namespace, base: Path, adapters: dict[str, Path]
) -> dict[str, dict[str, Any]]:
    """By step: seconds of it and of the copy before it, round for round, bytes, most memory."""
    found: dict[str, dict[str, Any]] = {
        name: {"seconds": [], "copy_seconds": [], "memory": 0} for name in STEPS
    }
    out = base.parent / "out"
    for number in range(options.rounds):
        for name, (step, kind) in STEPS.items():
            print(f"... {time.strftime('%H:%M:%S')} {number + 1}: {name}", file=sys.stderr)
            copying = copy_seconds(base, out)
            command = ["-m", "bench.export_speed", step, str(base), str(adapters[kind]), str(out)]
            done = json.loads(
                measured(command, threads=options.threads).output.strip().splitlines()[-1]
            )
            shutil.rmtree(out)
            one = found[name]
            one["seconds"].append(done["seconds"])
            one["copy_seconds"].append(copying)
            one["bytes"] = done["bytes"]
            one["memory"] = max(one["memory"], done["memory"])
    return found


def copy_seconds(base: Path, out: Path) -> float:
    from bench.export_speed import flush

    out.mkdir()
    began = time.perf_counter()
    for file in sorted(base.glob("*.safetensors")):
        shutil.copyfile(file, out / file.name)
        flush(out / file.name)
    seconds = time.perf_counter() - began
    shutil.rmtree(out)
    return seconds


def markdown(result: dict[str, Any]) -> str:
    rows = []
    for name, one in result["steps"].items():
        share = statistics.median(
            c / s for c, s in zip(one["copy_seconds"], one["seconds"], strict=True)
        )
        least = result["base_bytes"] / statistics.median(one["seconds"]) / 1e6
        beyond = max(one["memory"] - result["adapter_bytes"], 0) / result["largest_file_bytes"]
        merging = name.startswith("merge")
        rows.append(
            [
                name,
                statistics.median(one["seconds"]),
                least,
                share,
                share >= MERGE_TARGET if merging else None,
                one["memory"] / 1e6,
                beyond,
                beyond <= MEMORY_TARGET if merging else None,
            ]
        )
    header = [
        "step",
        "seconds",
        "MB/s of base",
        "copy time / its time",
        f"≥ {MERGE_TARGET}",
        "memory, MB",
        "beyond the adapter / largest file",
        f"≤ {MEMORY_TARGET}",
    ]
    copying = statistics.median(
        seconds for one in result["steps"].values() for seconds in one["copy_seconds"]
    )
    return (
        f"# Export measurements\n\n{report.footer(result)}.\n\n"
        f"A random base of {result['base_bytes'] / 1e9:.2f} GB in {result['files']} files (the "
        f"largest {result['largest_file_bytes'] / 1e6:.0f} MB), bfloat16; an adapter of rank 16 on "
        f"every linear layer ({result['adapter_bytes'] / 1e6:.0f} MB). Copying the files, flushed "
        f"to disk: {result['base_bytes'] / copying / 1e6:,.0f} MB/s. On the CPU, "
        f"{result['options']['threads']} threads; medians of {result['options']['rounds']} rounds "
        f"that take turns with the copies.\n\n{report.table(header, rows)}"
    )


if __name__ == "__main__":
    sys.exit(main())
