"""Chat templates that behave like those of well-known models which `trl` does not ship."""

from __future__ import annotations

from dataclasses import replace

from templates import Family, families, real_template

_ALTERNATE = (
    "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('user and assistant take turns') }}{%- endif %}"
)
_LEADING = (
    "{%- if messages[0].role == 'system' %}{%- set first = messages[0].content %}"
    "{%- set talk = messages[1:] %}{%- else %}{%- set talk = messages %}{%- endif %}"
)

LLAMA_2 = (
    _LEADING + "{%- for message in talk %}" + _ALTERNATE + "{%- set text = message.content %}"
    "{%- if loop.first and first is defined %}"
    "{%- set text = '<<SYS>>\n' + first + '\n<</SYS>>\n\n' + text %}{%- endif %}"
    "{%- if message.role == 'user' %}{{- bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
    "{%- else %}{{- ' ' + text.strip() + ' ' + eos_token }}{%- endif %}{%- endfor %}"
)

MISTRAL_1 = (
    "{{- bos_token }}{%- for message in messages %}"
    + _ALTERNATE
    + "{%- if message.role == 'user' %}"
    "{{- '[INST] ' + message.content + ' [/INST]' }}"
    "{%- else %}{{- message.content + eos_token + ' ' }}{%- endif %}{%- endfor %}"
)


def _mistral_folded(space: str, reply: str) -> str:
    """System text in the last question, as in v3 (with spaces) and Tekken (without)."""
    return (
        _LEADING + "{{- bos_token }}{%- for message in talk %}" + _ALTERNATE +
        "{%- if message.role == 'user' %}{{- '[INST]" + space + "' }}"
        "{%- if loop.last and first is defined %}{{- first + '\n\n' }}{%- endif %}"
        "{{- message.content + '[/INST]' }}"
        "{%- else %}{{- " + reply + " + eos_token }}{%- endif %}{%- endfor %}"
    )  # fmt: skip


MISTRAL_3 = _mistral_folded(" ", "' ' + message.content | trim")
MISTRAL_TEKKEN = _mistral_folded("", "message.content")
MISTRAL_SMALL = (
    "{{- bos_token }}{%- for message in messages %}"
    "{%- if message.role == 'system' %}"
    "{{- '[SYSTEM_PROMPT]' + message.content + '[/SYSTEM_PROMPT]' }}"
    "{%- elif message.role == 'user' %}{{- '[INST]' + message.content + '[/INST]' }}"
    "{%- else %}{{- message.content + eos_token }}{%- endif %}{%- endfor %}"
)

ZEPHYR = (
    "{%- for message in messages %}"
    "{{- '<|' + message.role + '|>\n' + message.content + eos_token + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}"
)

SMOLLM = (
    "{%- for message in messages %}{%- if loop.first and message.role != 'system' %}"
    "{{- '<|im_start|>system\nYou are a small assistant named SmolLM<|im_end|>\n' }}{%- endif %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

STRANGE = (
    "{%- for message in messages %}{{- '\u3000{{' + message.role + '}}\\n\"\"\"\n\r' }}"
    "{{- message.content.lstrip() + '{' + eos_token + '\u200b' }}{%- endfor %}"
    '{%- if add_generation_prompt %}{{- \'\u3000{{assistant}}\\n"""\n\r\' }}{%- endif %}'
)
"""Everything that neither Go nor a Modelfile takes as it is."""


def stock_families() -> dict[str, Family]:
    """The families of the other tests and those above, each with a fitting tokenizer."""
    known = families()
    mistral, chatml, gemma = known["mistral"], known["chatml"], known["gemma3"]
    more = {
        "llama2": replace(mistral, template=LLAMA_2),
        "mistral-v1": replace(mistral, template=MISTRAL_1),
        "mistral-v3": replace(mistral, template=MISTRAL_3),
        "mistral-tekken": replace(mistral, template=MISTRAL_TEKKEN),
        "mistral-small": replace(mistral, template=MISTRAL_SMALL),
        "zephyr": replace(mistral, template=ZEPHYR, adds_bos=False),
        "smollm": replace(chatml, template=SMOLLM),
        "strange": replace(chatml, template=STRANGE),
        "gemma": replace(gemma, template=real_template("gemma")),
        "phi3.5": replace(known["phi3"], template=real_template("phi3_5")),
        "cohere": replace(gemma, template=real_template("cohere")),
        "lfm2": replace(gemma, template=real_template("lfm2")),
        "deepseek-v3": replace(mistral, template=real_template("deepseekv3")),
        "deepseek-r1": replace(mistral, template=real_template("deepseek_r1_distill")),
        "gpt-oss": replace(chatml, template=real_template("gptoss")),
        "glm4": replace(chatml, template=real_template("glm4moe")),
        "gemma4": replace(gemma, template=real_template("gemma4")),
        "qwen3.5": replace(known["qwen3"], template=real_template("qwen3_5_think")),
    }
    return {**known, **more}
