"""An export is read by the newest transformers of the line before as well.

`TANREN_TRANSFORMERS_4` names a folder that has it: pip install --no-deps --target FOLDER
"transformers<5" "huggingface_hub<1" "tokenizers<0.23".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from export.adapted import PROBE, adapt, logits
from export.exporting import as_if_trained, exported

FOLDER = os.environ.get("TANREN_TRANSFORMERS_4")
QUESTION = [{"role": "user", "content": "空はなぜ青いの？"}]

pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="TANREN_TRANSFORMERS_4 names no folder with transformers 4"
)

READ = """
import json, sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
job = json.loads(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(job["folder"], torch_dtype=torch.float32).eval()
found = {"version": transformers.__version__, "stops": model.generation_config.eos_token_id}
if job["messages"]:
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    found["ids"] = tokenizer.apply_chat_template(job["messages"], add_generation_prompt=True)
with torch.no_grad():
    torch.save(model(torch.tensor(job["probe"])).logits, job["logits"])
print(json.dumps(found))
"""


def read(folder: Path, tmp_path: Path, messages: Any = None) -> tuple[dict[str, Any], torch.Tensor]:
    """What transformers 4 finds: versions, stops, prompt ids; logits of `PROBE`."""
    job = {"folder": str(folder), "messages": messages, "probe": PROBE.tolist()}
    job["logits"] = str(tmp_path / "logits.pt")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, json.dumps(job)],
        env={**os.environ, "PYTHONPATH": str(FOLDER)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["version"].startswith("4.")
    return found, torch.load(tmp_path / "logits.pt")


@pytest.mark.parametrize("family", ["qwen3", "llama-tied", "mistral", "gemma3", "phi3"])
def test_the_line_before_computes_the_same_numbers(family: str, tmp_path: Path) -> None:
    """Rotary settings are where it differs: its guess for a key it misses is 10,000."""
    theta = {"rope_parameters": {"rope_type": "default", "rope_theta": 77_000.0}}
    changes: dict[str, Any] = {} if family == "gemma3" else theta
    adapted = adapt(tiny.build_model(tmp_path / "base", family, **changes), tmp_path, "lora")
    done = exported(adapted.folder, out=tmp_path / "merged", dtype="float32")
    _, found = read(done.folder, tmp_path)
    assert float((found - adapted.logits()).abs().max()) < 1e-4


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_mixtures_too(family: str, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapted = adapt(tiny_model(family), tmp_path, "lora", target_parameters=parameters)
    done = exported(adapted.folder, out=tmp_path / "merged", dtype="float32")
    _, found = read(done.folder, tmp_path)
    assert float((found - logits(adapted.model)).abs().max()) < 1e-4


def test_prompts_and_stops_are_the_same_there(
    make_config: Callable[..., Any], tmp_path: Path
) -> None:
    run = as_if_trained(make_config(f"model.name={tiny.TINY_CHAT}"), tmp_path / "mine", amount=0.02)
    done = exported(run)
    found, _ = read(done.folder, tmp_path, QUESTION)
    from transformers import AutoTokenizer

    ours = AutoTokenizer.from_pretrained(run.adapter).apply_chat_template(
        QUESTION, add_generation_prompt=True, return_dict=False
    )
    assert found["ids"] == ours
    assert found["stops"] == done.proof["stop_ids"]["tuned"]
