"""The command lines of vLLM and SGLang, for an adapter on its base and for a whole model.

Flags as of vLLM 0.33.0 (vllm/engine/arg_utils.py, vllm/entrypoints/common/cli_args.py) and SGLang
0.5.23 (sglang/srt/arg_groups/fields/).
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tanren.artefact import CARD, Prompting
from tanren.errors import Fault, ModelError
from tanren.serving import VLLM_RANKS

PORTS = {"vllm": 8000, "sglang": 30000}
TITLES = {"vllm": "vLLM", "sglang": "SGLang"}
QUESTION = "Who are you?"


@dataclass(frozen=True, slots=True)
class Command:
    """A line to copy into a shell; `words` are its parts, unquoted."""

    title: str
    words: tuple[str, ...]

    @property
    def line(self) -> str:
        return shlex.join(self.words)


def vllm_rank(rank: int) -> int:
    """The smallest `--max-lora-rank` that holds the rank. Raises ModelError beyond the largest."""
    for allowed in VLLM_RANKS:
        if rank <= allowed:
            return allowed
    raise ModelError.of(
        Fault(
            "r",
            f"rank {rank}",
            f"at most {VLLM_RANKS[-1]}, vLLM's largest",
            "serve it merged: tanren export RUN --to merged",
        )
    )


def adapter_commands(
    server: Literal["vllm", "sglang"],
    folder: Path,
    card: Prompting,
    *,
    name: str,
    rank: int,
    template: str | None,
    generation: bool,
    max_model_len: int | None,
) -> tuple[Command, Command]:
    """Start the server with the base and the adapter in `folder`, and ask it something.

    `template` is the text of the folder's chat template, None without one; `generation`: whether
    the folder holds generation settings.
    """
    start = _vllm_start if server == "vllm" else _sglang_start
    words = start(folder, card, name, rank)
    if template is not None and server == "sglang" and _changed_by_sglang(template):
        words += ["--tokenizer-path", str(folder)]  # the template lies beside it
    elif template is not None:
        words += ["--chat-template", str(folder / "chat_template.jinja")]
    if generation and server == "vllm":
        # else the base's own file decides where an answer ends (T4)
        words += ["--generation-config", str(folder)]
    if card.dtype == "bfloat16":
        words += ["--dtype", "bfloat16"]
    words += _context(server, max_model_len)
    if server == "vllm":
        asked = _ask("vllm", name)
    else:  # SGLang takes the ends of an answer from the base alone
        asked = _ask("sglang", f"{card.base}:{name}", stop_ids=card.stop_ids)
    return Command(f"serve the adapter with {TITLES[server]}", tuple(words)), asked


def _vllm_start(folder: Path, card: Prompting, name: str, rank: int) -> list[str]:
    words = ["vllm", "serve", card.base]
    if card.base_revision is not None:
        words += ["--revision", card.base_revision]
    # `name=path` is read as JSON when there is a comma in it
    path = str(folder)
    module = json.dumps({"name": name, "path": path}) if "," in path else f"{name}={path}"
    return [
        *words,
        "--enable-lora",
        "--max-lora-rank",
        str(vllm_rank(rank)),
        "--lora-modules",
        module,
    ]


def _sglang_start(folder: Path, card: Prompting, name: str, rank: int) -> list[str]:
    words = ["python", "-m", "sglang.launch_server", "--model-path", card.base]
    if card.base_revision is not None:
        words += ["--revision", card.base_revision]
    # without strict loading, tensors that it cannot place are left out with a line in its log
    words += ["--enable-lora", "--lora-paths", f"{name}={folder}", "--max-lora-rank", str(rank)]
    return [*words, "--lora-strict-loading"]


def _changed_by_sglang(template: str) -> bool:
    """SGLang strips newlines around a template file and writes every `\\n` in it as a newline, also
    one whose backslash is itself escaped (sglang/srt/parser/template_manager.py,
    _load_jinja_template). Inside a string of Jinja a newline is the same as its escape.
    """
    return "\\\\n" in template or template.startswith("\n") or template.endswith("\n\n")


def merged_commands(
    folder: Path, *, name: str | None = None, max_model_len: int | None = None
) -> tuple[Command, ...]:
    """Serve a whole model folder with vLLM and SGLang, and ask each something.

    The folder's own template, stops and type hold. Raises ModelError where it is no whole model.
    """
    for wanted in ("config.json", CARD):
        if not (folder / wanted).is_file():
            raise ModelError.of(
                Fault(
                    str(folder),
                    f"no {wanted}",
                    "a whole model's folder",
                    "write one: tanren export RUN --to merged",
                )
            )
    path = str(folder.absolute())
    called = ["--served-model-name", name] if name else []
    starts = {
        "vllm": ["vllm", "serve", path],
        "sglang": ["python", "-m", "sglang.launch_server", "--model-path", path],
    }
    commands = []
    for server, words in starts.items():
        line = (*words, *called, *_context(server, max_model_len))
        commands.append(Command(f"serve the merged model with {TITLES[server]}", line))
        commands.append(_ask(server, name or path))
    return tuple(commands)


def _context(server: str, tokens: int | None) -> list[str]:
    flag = "--max-model-len" if server == "vllm" else "--context-length"
    return [] if tokens is None else [flag, str(tokens)]


def _ask(server: str, model: str, *, stop_ids: tuple[int, ...] = ()) -> Command:
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
    }
    if stop_ids:
        body["stop_token_ids"] = list(stop_ids)
    address = f"http://localhost:{PORTS[server]}/v1/chat/completions"
    words = ("curl", address, "-H", "Content-Type: application/json", "-d", json.dumps(body))
    return Command(f"ask {TITLES[server]}", words)
