"""The folder that `ollama create` takes: GGUF file, Modelfile, and the proof of its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.errors import ConfigError, Fault
from tanren.export.ollama import gguf_file
from tanren.export.ollama.modelfile import check_name, modelfile, sampling_of
from tanren.export.ollama.template_proof import TemplateProof
from tanren.export.ollama.translate import OllamaTemplate, translate
from tanren.rundir import write_json, write_text
from tanren.template import ChatRenderer

MODELFILE = "Modelfile"
TEMPLATE_PROOF = "template_proof.json"


@dataclass(frozen=True, slots=True)
class OllamaFolder:
    """What was written. `command` creates the model when it is called inside the folder."""

    modelfile: Path
    command: tuple[str, ...]
    template: OllamaTemplate
    notes: tuple[str, ...]

    @property
    def proof(self) -> TemplateProof:
        return self.template.proof


def write_ollama(
    folder: Path,
    gguf: Path,
    renderer: ChatRenderer,
    *,
    name: str,
    system: str | None = None,
    context_length: int = 0,
    stops: Sequence[str] = (),
    generation_config: Mapping[str, Any] | None = None,
    adapter: Path | None = None,
) -> OllamaFolder:
    """Writes Modelfile and proof into `folder`, and puts the GGUF file there if it is not.

    In the folder the file has no chat template of its own (`gguf_file.place_model` says why).
    `folder` is a staged one: making it appear whole is the caller's affair. `gguf` is the model, or
    with `adapter` (a GGUF LoRA) the base. `stops` are texts of stop tokens beyond those that the
    chat template ends a turn with; `context_length` 0 leaves Ollama's default.

    Raises ProofError where the template does not write what the chat template writes, ModelError
    where the GGUF file would have the server add a BOS that training never saw or the chat template
    cannot be expressed, ConfigError for what a Modelfile cannot hold.
    """
    check_name(name)
    adds_bos = gguf_file.server_adds_bos(gguf, chat_template_adds=renderer.facts.adds_bos)
    template = translate(renderer, server_adds_bos=adds_bos)
    template.proof.require("Ollama template")
    if system is not None:
        _require_system(template, system)
    stops = [*stop_texts(renderer), *stops]
    sampling = sampling_of(generation_config or {})
    source, hidden = gguf_file.place_model(gguf, folder)
    text = modelfile(
        source=source,
        template=template.text,
        system=system,
        stops=stops,
        context_length=context_length,
        sampling=sampling,
        adapter=gguf_file.place(adapter, folder) if adapter else None,
    )
    notes = (*template.notes, gguf_file.TEMPLATE_HIDDEN) if hidden else template.notes
    write_text(folder / MODELFILE, text)
    write_json(folder / TEMPLATE_PROOF, {**template.proof.as_dict(), "notes": notes})
    command = ("ollama", "create", name, "-f", MODELFILE)
    return OllamaFolder(folder / MODELFILE, command, template, notes)


def stop_texts(renderer: ChatRenderer) -> list[str]:
    """The stop tokens as text, as they stand in a reply."""
    tokens = renderer.tokenizer.convert_ids_to_tokens(list(renderer.facts.stop_ids))
    return list(dict.fromkeys(str(token) for token in tokens))


def _require_system(template: OllamaTemplate, system: str) -> None:
    if template.takes_system or not system:
        return
    raise ConfigError.of(
        Fault(
            where="system message for the Modelfile",
            found=repr(system[:60]),
            expected="none: the chat template of this model writes no system message",
            remedy="leave it away, or put the text into the first question",
        )
    )
