"""The model card: README.md as the Hub and people read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tanren import privacy
from tanren.export.card_facts import UNKNOWN, Base, CardFacts, Prompt, Rows, number
from tanren.export.leaks import local_paths
from tanren.export.licence import UNKNOWN as UNKNOWN_LICENCE

PLACE = "OWNER/NAME"
BASE_PLACE = "PATH-OF-THE-BASE"
_LIBRARIES = {"merged": "transformers", "adapter": "peft", "gguf": "gguf", "ollama": "gguf"}
_TITLES = {
    "merged": "a whole model for transformers",
    "adapter": "an adapter for PEFT",
    "gguf": "a model in GGUF, for llama.cpp and what is built on it",
    "ollama": "a model for Ollama: GGUF weights and a Modelfile",
    "vllm": "a folder for vLLM",
}


def model_card(facts: CardFacts) -> str:
    """README.md: front matter, then what the model is, how it was made, prompted, loaded and
    proved, and under which licence its base stands.
    """
    parts = [
        f"---\n{_front_matter(facts)}\n---",
        f"# {_title(facts)}",
        *_introduction(facts),
        "## How to load it",
        *_loading(facts),
        "## How to prompt it",
        *_prompting(facts.prompt),
        "## How it was made",
        _table(facts.how),
        "### Data",
        _table(facts.data),
        "### Losses",
        _table(facts.outcome),
        "### Made with",
        _table(facts.made_with),
        "## Proof",
        *_proof(facts),
        "## Licence",
        *_licence(facts.base),
    ]
    return "\n\n".join(parts) + "\n"


def relation(facts: CardFacts) -> str:
    """The Hub's word for how this stands to its base. A tuned model in GGUF is a `finetune` too:
    `quantized` would list it as the untuned base in another format, `merge` as several models in
    one.
    """
    return "finetune" if facts.whole else "adapter"


def _front_matter(facts: CardFacts) -> str:
    privacy.apply()
    from huggingface_hub import ModelCardData

    base = facts.base
    library = _LIBRARIES.get(facts.kind, "transformers" if facts.whole else "peft")
    method = facts.method.lower().replace("+", "-plus").replace(" ", "-")
    tags = ["tanren", "fine-tuned", *([] if method == UNKNOWN else [method])]
    tags += [] if library == "transformers" else [library]
    data = ModelCardData(
        base_model=base.name,
        base_model_relation=relation(facts) if base.name else None,
        license=base.licence.identifier,
        license_name=base.licence.name,
        license_link=base.licence.link,
        language=list(base.languages) or None,
        library_name=library,
        pipeline_tag="text-generation",
        tags=tags,
    )
    return str(data.to_yaml())


def _title(facts: CardFacts) -> str:
    name = facts.base.name.rpartition("/")[2] if facts.base.name else "A language model"
    return f"{name}, tuned" if facts.method == UNKNOWN else f"{name}, tuned with {facts.method}"


def _introduction(facts: CardFacts) -> Iterator[str]:
    base = facts.base
    named = f"[{base.name}](https://huggingface.co/{base.name})" if base.name else None
    of = named or "a base model from a local folder, which has no public name here"
    yield f"This is {_TITLES[facts.kind]}. It was made by tuning {of}."
    yield _table(
        (
            ("Base", base.name or "a local folder"),
            ("Revision of the base", base.revision or UNKNOWN),
            ("Fingerprint of the base", base.fingerprint or UNKNOWN),
            ("Architecture", base.architecture or UNKNOWN),
        )
    )


def _loading(facts: CardFacts) -> Iterator[str]:
    if facts.commands:
        yield _code("sh", facts.commands)
    elif facts.kind == "ollama":
        yield _code("sh", ("ollama create tuned -f Modelfile", "ollama run tuned"))
    elif facts.kind == "gguf":
        yield from _llama_cpp(facts)
    else:
        yield _code("python", _python(facts))
        if facts.unserved is None:
            yield "With vLLM:"
            yield _code("sh", (_vllm(facts),))
        else:
            yield facts.unserved
    if not facts.commands and facts.kind != "ollama":
        yield f"`{facts.repo or PLACE}` is this repository, or the folder that this file lies in."


def _llama_cpp(facts: CardFacts) -> Iterator[str]:
    file = facts.weights[0] if facts.weights else "FILE.gguf"
    if facts.whole:
        yield _code("sh", (f"llama-cli -m {file} --jinja", f"llama-server -m {file} --jinja"))
    else:
        yield "The adapter goes on its base, which has to be a GGUF file too:"
        yield _code("sh", (f"llama-cli -m BASE.gguf --lora {file} --jinja",))


def _python(facts: CardFacts) -> Iterator[str]:
    """Lines that load the model and let it answer once."""
    base = facts.base
    if not facts.whole:
        yield "from peft import PeftModel"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    yield f'name = "{facts.repo or PLACE}"'
    yield "tokenizer = AutoTokenizer.from_pretrained(name)"
    if facts.whole:
        yield 'model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")'
    else:
        revision = f', revision="{base.revision}"' if base.name and base.revision else ""
        place = base.name or BASE_PLACE
        yield f'base = AutoModelForCausalLM.from_pretrained("{place}"{revision}, dtype="auto")'
        yield "model = PeftModel.from_pretrained(base, name)"
    yield 'messages = [{"role": "user", "content": "Hello!"}]'
    yield "prompt = tokenizer.apply_chat_template("
    yield "    messages,"
    yield "    add_generation_prompt=True,"
    yield "    return_dict=True,"
    yield '    return_tensors="pt",'
    switch = _switch(facts.prompt)
    if switch is not None:
        yield f"    {switch[0]}={switch[1]},"
    yield ")"
    yield "reply = model.generate(**prompt, max_new_tokens=256)"
    yield 'print(tokenizer.decode(reply[0, prompt["input_ids"].shape[1] :]))'


def _vllm(facts: CardFacts) -> str:
    place = facts.repo or PLACE
    if facts.whole:
        return f"vllm serve {place}"
    rank = f" --max-lora-rank {facts.rank}" if facts.rank else ""
    return (
        f"vllm serve {facts.base.name or BASE_PLACE} --enable-lora "
        f"--lora-modules tuned={place}{rank}"
    )


def _switch(prompt: Prompt) -> tuple[str, bool] | None:
    """(name, value) of the template's variable for reasoning, where it has to be passed."""
    if prompt.thinking != "switch" or prompt.switch is None or prompt.on is None:
        return None
    return prompt.switch, prompt.on


def _prompting(prompt: Prompt) -> Iterator[str]:
    trained = " It is the one that was trained with." if prompt.stop_ids else ""
    yield f"Prompts are written by the chat template beside the weights (in GGUF: inside).{trained}"
    switch = _switch(prompt)
    if switch is not None:
        request = json.dumps({switch[0]: switch[1]})
        yield (
            f"It was trained with reasoning switched {'on' if switch[1] else 'off'}: pass "
            f"`{switch[0]}={switch[1]}` to `apply_chat_template`, or to a server "
            f'`"chat_template_kwargs": {request}` with every request.'
        )
    elif prompt.thinking == "switch":
        yield f"Leave `{prompt.switch}` of the template at its default, as in training."
    elif prompt.thinking == "always":
        yield "The template opens the reasoning itself: a reply begins inside it."
    elif prompt.thinking is None:
        state = {True: "on", False: "off", None: UNKNOWN}[prompt.on]
        yield f"Reasoning in training, where the template has a switch for it: {state}."
    if prompt.date is not None:
        yield f"The template tells a date; in training it was {prompt.date}."
    yield _stops(prompt)


def _stops(prompt: Prompt) -> str:
    if not prompt.stop_ids:
        return f"What ends a reply: {UNKNOWN}; see generation_config.json where there is one."
    ids = ", ".join(map(str, prompt.stop_ids))
    text = f" `{prompt.stop_text}`;" if prompt.stop_text else ""
    return f"What ends a reply:{text} token ids {ids}."


def _proof(facts: CardFacts) -> Iterator[str]:
    if facts.proof is None:
        yield "None: nobody has compared these files with the model that was trained."
        return
    yield f"Compared: {facts.compared}. The numbers lie in `proof.json` too."
    yield _table(tuple(_proof_rows(facts.proof)))


def _proof_rows(proof: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every number of a proof. A list of anything but numbers is told by its length: it may hold
    pieces of the data.
    """
    for key, value in proof.items():
        what = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _proof_rows(value, f"{what}: ")
        elif isinstance(value, list | tuple):
            if value and all(isinstance(item, int) for item in value):
                yield what, ", ".join(map(str, value))
            elif value:
                yield what, f"{len(value):,}"
        elif isinstance(value, str):
            if len(value) <= 60 and not list(local_paths(value)):
                yield what, value
        elif value is not None:
            yield what, _proof_value(key, value)


def _proof_value(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and "agreement" in key:
        return f"{value:.2%}"
    return number(value)


def _licence(base: Base) -> Iterator[str]:
    licence = base.licence
    if licence.identifier == UNKNOWN_LICENCE:
        yield (
            f"Unknown: {licence.source}. A tuned model stands under the terms of its base: find "
            "them before you share or use this one."
        )
        return
    texts = ", ".join(f"`{name}`" for name in licence.files)
    name = f" ({licence.name})" if licence.name else ""
    yield (
        f"The base stands under `{licence.identifier}`{name}, as {licence.source} says; its terms "
        f"hold for what is made of it.{f' Its text: {texts}.' if texts else ''}"
    )


def _table(rows: Rows) -> str:
    lines = ["| | |", "|---|---|"]
    lines += [f"| {_cell(what)} | {_cell(value)} |" for what, value in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _code(language: str, lines: Any) -> str:
    return "\n".join([f"```{language}", *lines, "```"])
