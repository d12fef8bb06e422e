"""The model card: what a build measured, and a check that the files are the ones it describes."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import tokenizers
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tiny_chat.training import PEAK_RATE, PROMPT_WEIGHT, ROW_LENGTH, ROWS_PER_STEP

CARD = "README.md"
CARD_TEXT = Path(__file__).with_name("card.md")
FILES = (
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
MAX_NEW_TOKENS = 64

SAMPLE_PROMPTS = (
    "こんにちは。",
    "あなたは誰ですか。",
    "傘とは何ですか。",
    "3たす4はいくつですか。",
    "「大きい」の反対は何ですか。",
    "どうして氷は水にうくの？",
    "質問: 空から降ってくる水は何ですか。\n選択肢: 犬, 雨, りんご, 学校, くつ",
    "りんご、猫、電車の二番目は何ですか。",
    "今日の天気を教えてください。",
    "Who are you?",
    "What is 2 plus 5?",
    "困っているおばあさんを見たらどうする？",
    "どうして空は青いの？",
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What one build measured. Losses are nats per reply token over the held-out dialogues."""

    steps: int
    seconds: float
    dialogues: int
    tokens: int
    rows: int
    held_out_dialogues: int
    loss_before_rounding: float
    loss_stored: float
    loss_bf16: float
    samples: list[tuple[str, str]]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@torch.no_grad()
def answer(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    system: str | None = None,
) -> str:
    """The greedy reply to one question; ends in `<|im_end|>` where the model stopped by itself."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": prompt})
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    reply: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    return reply


def sample_answers(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> list[tuple[str, str]]:
    model.eval()
    return [(prompt, answer(model, tokenizer, prompt)) for prompt in SAMPLE_PROMPTS]


def _samples(facts: Facts) -> str:
    lines = ["| Question | Answer |", "|---|---|"]
    for prompt, reply in facts.samples:
        stopped = reply.endswith("<|im_end|>")
        shown = reply.removesuffix("<|im_end|>") + ("" if stopped else " (did not stop)")
        lines.append(f"| {prompt} | {shown} |".replace("\n", "<br>"))
    return "\n".join(lines)


def _architecture(config: Qwen3Config) -> str:
    return (
        f"{config.model_type}: {config.num_hidden_layers} layers, hidden {config.hidden_size}, "
        f"{config.num_attention_heads} query and {config.num_key_value_heads} key/value heads of "
        f"{config.head_dim}, MLP {config.intermediate_size}, tied embeddings"
    )


def _versions() -> str:
    threads = torch.get_num_threads()
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}, "
        f"{threads} thread{'s' if threads != 1 else ''}, "
        f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    )


def write_card(out: Path, facts: Facts) -> None:
    model = AutoModelForCausalLM.from_pretrained(out)
    text = CARD_TEXT.read_text(encoding="utf-8").format(
        **{**asdict(facts), "samples": _samples(facts)},
        architecture=_architecture(model.config),
        parameters=model.num_parameters(),
        megabytes=(out / "model.safetensors").stat().st_size / 1e6,
        vocabulary=model.config.vocab_size,
        context=model.config.max_position_embeddings,
        row_length=ROW_LENGTH,
        step_tokens=ROW_LENGTH * ROWS_PER_STEP,
        peak_rate=PEAK_RATE,
        prompt_weight=PROMPT_WEIGHT,
        minutes=facts.seconds / 60,
        versions=_versions(),
        hashes="\n".join(f"{sha256(out / name)}  {name}" for name in FILES),
    )
    (out / CARD).write_text(text, encoding="utf-8")


def recorded_hashes(out: Path) -> dict[str, str]:
    """File name to SHA-256, as the card states them."""
    card = (out / CARD).read_text(encoding="utf-8")
    return {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", card, re.M)}


def check(out: Path) -> int:
    """0 if every file is the recorded one and the model answers; else 1, faults on stderr."""
    recorded = recorded_hashes(out)
    wrong = [name for name in FILES if recorded.get(name) != sha256(out / name)]
    for name in wrong:
        print(
            f"{out / name}: found {sha256(out / name)}, the card says {recorded.get(name)}",
            file=sys.stderr,
        )
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    reply = answer(model, AutoTokenizer.from_pretrained(out), "こんにちは。")
    if not reply.endswith("<|im_end|>"):
        print(f"{out}: the reply to a greeting does not end: {reply!r}", file=sys.stderr)
        return 1
    return 1 if wrong else 0
