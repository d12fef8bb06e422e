"""Ollama: a Modelfile whose template is the model's chat template, proven on ten conversations."""

from __future__ import annotations

from tanren.export.ollama.folder import OllamaFolder, stop_texts, write_ollama
from tanren.export.ollama.modelfile import check_name, modelfile, sampling_of
from tanren.export.ollama.template_proof import ProofRow, TemplateProof, prove
from tanren.export.ollama.translate import OllamaTemplate, translate

__all__ = [
    "OllamaFolder",
    "OllamaTemplate",
    "ProofRow",
    "TemplateProof",
    "check_name",
    "modelfile",
    "prove",
    "sampling_of",
    "stop_texts",
    "translate",
    "write_ollama",
]
