"""Ollama's Modelfile: https://github.com/ollama/ollama/blob/main/docs/modelfile.md

Its reader (`parser/parser.go`) knows no escapes. A value in three quotes goes on to the first line
that ends in three quotes; characters that Go does not call printable are dropped without a word.
What would not arrive whole is refused here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tanren.errors import ConfigError, Fault
from tanren.export.ollama.go_text import printable

_QUOTES = '"""'

# generation_config.json -> Ollama, where both mean the same thing.
_SAMPLING = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}

# Host (with a port), namespace, model and tag, as `types/model/name.go` has them.
_NAME = re.compile(
    r"(?:(?:[A-Za-z0-9_][A-Za-z0-9._:-]{0,349}/)?[A-Za-z0-9_][A-Za-z0-9_-]{0,79}/)?"
    r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,79})?"
)


def modelfile(
    *,
    source: str,
    template: str,
    system: str | None = None,
    stops: Sequence[str] = (),
    context_length: int = 0,
    sampling: Mapping[str, float] | None = None,
    adapter: str | None = None,
) -> str:
    """The text of a Modelfile.

    `source` and `adapter` are paths relative to the Modelfile, or `source` is the name of a model
    that Ollama has. `context_length` 0 leaves Ollama's own. `sampling` has Ollama's names. Raises
    ConfigError, with every fault, for what a Modelfile cannot hold.
    """
    faults = [
        *_faults("FROM", source, one_line=True),
        *(_faults("ADAPTER", adapter, one_line=True) if adapter else ()),
        *_faults("TEMPLATE", template),
        *(_faults("SYSTEM", system) if system else ()),
        *(fault for stop in stops for fault in _faults("PARAMETER stop", stop)),
    ]
    if faults:
        raise ConfigError.of(*faults)
    lines = [f"FROM {_line(source)}"]
    if adapter:
        lines.append(f"ADAPTER {_line(adapter)}")
    lines.append(f"TEMPLATE {_QUOTES}{template}{_QUOTES}")
    if system:
        lines.append(f"SYSTEM {_QUOTES}{system}{_QUOTES}")
    if context_length:
        lines.append(f"PARAMETER num_ctx {context_length}")
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in dict.fromkeys(stops)]
    lines += [f"PARAMETER {name} {_number(value)}" for name, value in (sampling or {}).items()]
    return "\n".join(lines) + "\n"


def sampling_of(generation_config: Mapping[str, Any]) -> dict[str, float]:
    """Ollama's sampling parameters for those that generation_config.json states.

    `do_sample: false` is greedy decoding: temperature 0. What is not stated is left to Ollama.
    """
    if generation_config.get("do_sample") is False:
        return {"temperature": 0}
    return {
        ours: value
        for theirs, ours in _SAMPLING.items()
        if isinstance(value := generation_config.get(theirs), int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }


def check_name(name: str) -> None:
    """Raises ConfigError where `ollama create` would not take the name.

    `model`, `model:tag`, `namespace/model` or `host/namespace/model`.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError.of(
            Fault(
                where="name of the Ollama model",
                found=repr(name),
                expected="letters, digits, '.', '_' and '-', as in my-model or me/my-model:v1",
                remedy="choose another name",
            )
        )


def _faults(where: str, text: str, *, one_line: bool = False) -> list[Fault]:
    faults = []
    lost = sorted({character for character in text if not printable(character)})
    if lost:
        listed = ", ".join(f"U+{ord(character):04X}" for character in lost[:8])
        found = f"characters that Ollama drops without a word: {listed}"
        wanted = "printable characters and ordinary spaces"
        faults.append(_fault(where, found, wanted, "replace or remove them"))
    if one_line and "\n" in text:
        faults.append(_fault(where, "a line break", "one line", "rename the file"))
    if any(line.rstrip().endswith(_QUOTES) for line in text.split("\n")[:-1]):
        found, wanted = (
            'a line that ends in """',
            "text that a Modelfile can hold",
        )
        faults.append(_fault(where, found, wanted, "put something behind the quotes"))
    return faults


def _fault(where: str, found: str, expected: str, remedy: str) -> Fault:
    return Fault(f"Modelfile, {where}", found, expected, remedy)


def _line(text: str) -> str:
    """A path or name: in quotes where white space or a quote would change it."""
    return text if re.fullmatch(r'[^\s"]+', text) else _quoted(text)


def _quoted(text: str) -> str:
    return f'"{text}"' if '"' not in text and "\n" not in text else _QUOTES + text + _QUOTES


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
