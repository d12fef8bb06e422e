"""Tokenizers and chat templates in the style of the families that people tune, small enough for
tests.

The templates of real models are read from the installed `trl` package; those it lacks are written
here. Tokenizers are trained on a few lines, with each family's special tokens and its habits: byte
level or byte fallback, a space in front or not, a BOS or not, control tokens that swallow the line
break behind them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "You are a helpful assistant. The sky is blue because air scatters blue light the most.",
    "User: What is the capital of Japan?\nAssistant: Tokyo.\n\nSystem: answer briefly.",
    "質問:空はなぜ青いのですか。答え:空気が青い光をいちばんよく散らすからです。",
    "東京の天気は晴れです。太郎さんはりんごを三つ食べました。ありがとう。",
    '{"name": "get_weather", "parameters": {"city": "Tokyo", "days": 3}}',
    "  two spaces, a\ttab\n\nand three dots... 12 + 30 = 42",
] * 4

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CHATML_MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}"
    "{% else %}{{ message.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

MISTRAL = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system_text = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user and assistant') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_text is defined %}
            {{- '[INST] ' + system_text + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
"""
"""Puts the system text into the last user message, so that every turn has a context of its own."""

MISTRAL_TOOLS = """\
{{- bos_token }}
{%- if tools %}{{- '[AVAILABLE_TOOLS] ' + tools | tojson + ' [/AVAILABLE_TOOLS]' }}{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'tool' %}
        {{- '[TOOL_RESULTS] ' + message['content'] + ' [/TOOL_RESULTS]' }}
    {%- elif message.tool_calls is defined %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in message.tool_calls %}
            {%- if call.id | length != 9 %}
                {{- raise_exception('ids have nine letters') }}
            {%- endif %}
            {{- ', ' if not loop.first }}
            {{- '{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- ', "id": "' + call.id + '"}' }}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
"""

PHI4 = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)

PLAIN = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Ends no turn with a special token."""


def real_template(name: str) -> str:
    """A stock template of a real model, as the installed trl ships it."""
    return (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def real_template_names() -> list[str]:
    folder = files("trl") / "chat_templates"
    names = [entry.name for entry in folder.iterdir() if entry.name.endswith(".jinja")]
    return sorted(name.removesuffix(".jinja") for name in names)


GPT_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(*, trim_offsets: bool = False, vocabulary: int = 600) -> Tokenizer:
    """As in Llama 3 and Qwen: a split by a regular expression, then bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return tokenizer


def _sentencepiece(*, space_in_front: bool) -> Tokenizer:
    """As in Llama 2, Mistral, Phi-3 (a space in front) and Gemma (none): unknown characters fall
    back to bytes."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)"), behavior="isolated")
    head = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=head, limit_alphabet=120, show_progress=False
    )
    trained.train_from_iterator([line.replace("\n", " ") for line in CORPUS], trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    replace = normalizers.Replace(" ", "▁")
    steps = [normalizers.Prepend("▁"), replace] if space_in_front else [replace]
    tokenizer.normalizer = normalizers.Sequence(steps)
    decode = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if space_in_front:
        decode.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(decode)
    return tokenizer


def _with_bos(tokenizer: Tokenizer, bos: str) -> None:
    """Makes `tokenizer` add its BOS itself, as those of Llama, Gemma and Mistral do."""
    adding = processors.TemplateProcessing(
        single=f"{bos} $A", pair=None, special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    before = [tokenizer.post_processor] if tokenizer.post_processor else []
    tokenizer.post_processor = processors.Sequence([*before, adding])


@dataclass(frozen=True)
class Family:
    """One family: how its tokenizer and template behave, and what its replies look like when
    trained."""

    name: str
    template: str | None
    special: tuple[str, ...]
    bos: str | None
    eos: str
    end_of_turn: str
    base: Callable[[], Tokenizer]
    before_reply: str = ""
    tools: bool = False
    system: bool = True
    adds_bos: bool = False
    rstrip: bool = False
    ordinary: tuple[str, ...] = field(default=())

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A new object each time: tests may set things on it."""
        backend = Tokenizer.from_str(_backend(self))
        made = PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token=self.bos, eos_token=self.eos, pad_token=self.eos
        )
        made.chat_template = self.template
        return made


@cache
def _trained(base: Callable[[], Tokenizer]) -> str:
    return base().to_str()


@cache
def _backend(family: Family) -> str:
    tokenizer = Tokenizer.from_str(_trained(family.base))
    control = dict.fromkeys([*([family.bos] if family.bos else []), family.eos, *family.special])
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False, rstrip=family.rstrip) for text in control]
    )
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in family.ordinary])
    if family.adds_bos and family.bos:
        _with_bos(tokenizer, family.bos)
    return tokenizer.to_str()


def _llama3_base() -> Tokenizer:
    return _byte_level(trim_offsets=True)


def _spaced_base() -> Tokenizer:
    return _sentencepiece(space_in_front=True)


def _gemma_base() -> Tokenizer:
    return _sentencepiece(space_in_front=False)


_IM = ("<|im_start|>", "<|im_end|>")
_LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>")
_LLAMA3_ENDS = {
    "special": _LLAMA3,
    "bos": "<|begin_of_text|>",
    "eos": "<|eot_id|>",
    "end_of_turn": "<|eot_id|>",
    "base": _llama3_base,
    "adds_bos": True,
}
_QWEN: dict[str, Any] = {
    "special": ("<|endoftext|>", *_IM),
    "bos": None,
    "eos": "<|im_end|>",
    "end_of_turn": "<|im_end|>",
    "base": _byte_level,
    "tools": True,
    "ordinary": ("<think>", "</think>", "<tool_call>", "</tool_call>"),
}


@cache
def families() -> dict[str, Family]:
    made = [
        Family("llama3", real_template("llama3"), **_LLAMA3_ENDS),
        Family("llama3.1", real_template("llama3_1"), tools=True, **_LLAMA3_ENDS),
        Family("llama3.2", real_template("llama3_2"), tools=True, **_LLAMA3_ENDS),
        Family("qwen2.5", real_template("qwen2_5"), **_QWEN),
        Family("qwen3", real_template("qwen3"), **_QWEN),
        Family("qwen3-2507", real_template("qwen3_instruct_2507"), **_QWEN),
        Family(
            "gemma3", real_template("gemma3"), ("<start_of_turn>", "<end_of_turn>"), "<bos>",
            "<eos>", "<end_of_turn>", _gemma_base, adds_bos=True, ordinary=("\n\n", "\n\n\n"),
        ),
        Family("mistral", MISTRAL, ("[INST]", "[/INST]"), "<s>", "</s>", "</s>", _spaced_base,
               before_reply=" ", adds_bos=True),
        Family(
            "mistral-tools", MISTRAL_TOOLS,
            ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]",
             "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
            "<s>", "</s>", "</s>", _spaced_base, before_reply=" ", tools=True, system=False,
            adds_bos=True,
        ),
        Family(
            "phi3", real_template("phi3"), ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
            "<s>", "<|endoftext|>", "<|end|>", _spaced_base, adds_bos=True, rstrip=True,
        ),
        # The same template on tokenizers that treat white space otherwise.
        Family("chatml-trimmed-offsets", CHATML, _IM, None, "<|im_end|>", "<|im_end|>",
               _llama3_base),
        Family("chatml-gemma", CHATML, _IM, "<bos>", "<|im_end|>", "<|im_end|>", _gemma_base,
               ordinary=("\n", "\n\n", "\n\n\n"), adds_bos=True),
        Family("chatml-llama2", CHATML, _IM, "<s>", "<|im_end|>", "<|im_end|>", _spaced_base,
               adds_bos=True),
        Family("plain-llama2", PLAIN, (), "<s>", "</s>", "</s>", _spaced_base, before_reply=" ",
               adds_bos=True),
        Family("phi4", PHI4, (*_IM, "<|im_sep|>", "<|endoftext|>"), "<|endoftext|>",
               "<|im_end|>", "<|im_end|>", _byte_level),
        Family("chatml", CHATML, _IM, None, "<|im_end|>", "<|im_end|>", _byte_level),
        Family("chatml-marked", CHATML_MARKED, _IM, None, "<|im_end|>", "<|im_end|>", _byte_level),
        Family("plain", PLAIN, (), "<s>", "</s>", "</s>", _byte_level, before_reply=" "),
        Family("no-template", None, (), "<s>", "</s>", "</s>", _spaced_base, tools=True,
               adds_bos=True),
        Family("no-template-bytes", None, (), None, "<eos>", "<eos>", _byte_level, tools=True),
    ]  # fmt: skip
    return {family.name: family for family in made}


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Its name."}},
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "number", "description": "First."}},
                "required": ["a"],
            },
        },
    },
]
