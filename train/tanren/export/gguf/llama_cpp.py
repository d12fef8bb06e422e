"""llama.cpp itself, where it is installed: what it makes of a file, and its smaller types."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tanren.errors import Fault, ModelError, ProofError
from tanren.export.gguf.storage import staged_file

PYTHON_VARIABLE = "TANREN_LLAMA_CPP_PYTHON"
"""Names an interpreter (3.11 or newer) that has the package llama_cpp, where ours has not."""

QUANT_KINDS = (
    "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_0", "Q5_1",
    "Q5_K_S", "Q5_K_M", "Q6_K", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS",
)  # fmt: skip
"""Types that llama.cpp makes out of a bigger file without calibration data."""


@dataclass(frozen=True, slots=True)
class LlamaCppAnswer:
    """`logits`: one array (time, vocab) a prompt. `ids`: of each text. `stops`: ids that end an
    answer for llama.cpp.
    """

    logits: tuple[np.ndarray, ...]
    ids: tuple[tuple[int, ...], ...]
    stops: tuple[int, ...]


def find_python() -> str | None:
    """An interpreter with llama_cpp: ours, or the one that the environment names."""
    if importlib.util.find_spec("llama_cpp") is not None:
        return sys.executable
    named = os.environ.get(PYTHON_VARIABLE)
    return named if named and _has_llama_cpp(named) else None


@lru_cache
def _has_llama_cpp(python: str) -> bool:
    try:
        asked = subprocess.run(
            [python, "-P", "-c", "import llama_cpp"], capture_output=True, check=False
        )
    except OSError:
        return False
    return asked.returncode == 0


def find_program(name: str) -> str | None:
    """A program of llama.cpp on the PATH: llama-quantize, llama-server, llama-cli, ..."""
    return shutil.which(name)


def ask_llama_cpp(
    path: Path,
    prompts: Sequence[Sequence[int]] = (),
    texts: Sequence[str] = (),
    *,
    lora: Path | None = None,
    add_special: bool = False,
    context: int | None = None,
) -> LlamaCppAnswer:
    """Let llama.cpp read the file: logits of token ids, ids of texts (special tokens parsed, BOS
    and EOS as `add_special` says), and stops. float32 keys and values, one thread, no GPU.

    Raises ModelError when llama_cpp is nowhere, ProofError when llama.cpp cannot read the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.npz"
        _work(
            {
                "work": "answer",
                "model": str(path),
                "lora": None if lora is None else str(lora),
                "prompts": [[int(i) for i in prompt] for prompt in prompts],
                "texts": list(texts),
                "add_special": add_special,
                "context": context,
                "answer": str(answer),
            },
            path,
        )
        with np.load(answer) as found:
            return LlamaCppAnswer(
                tuple(found[f"logits{i}"] for i in range(len(prompts))),
                tuple(tuple(found[f"ids{i}"].tolist()) for i in range(len(texts))),
                tuple(found["stops"].tolist()),
            )


def llama_cpp_logits(
    path: Path, prompts: Sequence[Sequence[int]], *, lora: Path | None = None
) -> tuple[np.ndarray, ...]:
    """Logits of llama.cpp, one array (time, vocab) a prompt."""
    return ask_llama_cpp(path, prompts, lora=lora).logits


def llama_cpp_token_ids(
    path: Path, texts: Sequence[str], *, add_special: bool = False
) -> tuple[tuple[int, ...], ...]:
    """The tokens that llama.cpp cuts texts into."""
    return ask_llama_cpp(path, texts=texts, add_special=add_special).ids


def _work(job: dict[str, Any], path: Path) -> None:
    python = find_python()
    if python is None:
        raise ModelError.of(
            Fault(
                "llama.cpp",
                "no Python package llama_cpp",
                "llama.cpp on this machine",
                "pip install llama-cpp-python, or name an interpreter that has it in "
                f"{PYTHON_VARIABLE}",
            )
        )
    worker = Path(__file__).with_name("llama_cpp_worker.py")
    done = subprocess.run(
        [python, "-P", str(worker)],
        input=json.dumps(job).encode("utf-8"),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
        raise ProofError(
            "llama.cpp could not do it",
            [
                Fault(
                    str(path),
                    (words[-1] if words else f"an end with {done.returncode}")[:200],
                    "a file that llama.cpp reads",
                    "write the file again; report it with the file's name if it stays",
                )
            ],
        )


# --- smaller types --------------------------------------------------------------------------------


def quantise_command(source: Path, target: Path, kind: str) -> str:
    """What to type where llama.cpp is installed. Raises ModelError for kinds it has not."""
    return shlex.join(["llama-quantize", str(source), str(target), _known_kind(kind)])


def quantise(source: Path, target: Path, kind: str) -> bool:
    """Make the smaller file `target` by llama-quantize or llama_cpp; False when neither is here.

    `kind` as llama.cpp names it, q4_k_m for example. `target` appears whole or not at all.
    """
    name = _known_kind(kind)
    program = find_program("llama-quantize")
    if program is None and find_python() is None:
        return False
    with staged_file(target, 0) as staged:
        if program is None:
            job = {"work": "quantise", "model": str(source), "target": str(staged), "kind": name}
            _work({**job, "threads": os.cpu_count() or 1}, source)
        else:
            _run_program(program, source, staged, name)
    return True


def _run_program(program: str, source: Path, target: Path, kind: str) -> None:
    done = subprocess.run(
        [program, str(source), str(target), kind], capture_output=True, check=False
    )
    if done.returncode != 0 or not target.is_file():
        words = (done.stderr or done.stdout).decode("utf-8", errors="replace").strip()
        raise ProofError(
            "llama-quantize failed",
            [
                Fault(
                    str(source),
                    (words.splitlines() or ["no message"])[-1][:200],
                    f"a file of the type {kind}",
                    f"try it by hand: {program} {source} {target} {kind}",
                )
            ],
        )


def _known_kind(kind: str) -> str:
    name = kind.upper()
    if name not in QUANT_KINDS:
        raise ModelError.of(
            Fault(
                "--type",
                repr(kind),
                "f32, f16, bf16, q8_0 or one of " + ", ".join(k.lower() for k in QUANT_KINDS),
                "choose one of them",
            )
        )
    return name
