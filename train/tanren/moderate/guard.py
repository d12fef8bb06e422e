"""Guard models that run on this machine: a text classifier, or a chat model that answers "safe" or
"unsafe" (as Llama Guard does).
"""

from __future__ import annotations

from tanren.config import ModelConfig
from tanren.data.screen.moderator import Moderator
from tanren.errors import ConfigError, Fault
from tanren.model import Source, known_architecture, locate


def load_guard(word: str, *, threshold: float | None = None) -> Moderator:
    """`MODEL`, or `MODEL#LABEL,LABEL` where a classifier's own names do not tell which are unsafe.

    Raises ModelError for a model that cannot be used, ConfigError for labels it does not have.
    """
    name, _, listed = word.partition("#")
    labels = [label.strip() for label in listed.split(",") if label.strip()]
    source = locate(ModelConfig(name=name))
    if _classifies(source):
        from tanren.moderate.classifier import load_classifier

        return load_classifier(source, labels, threshold=0.5 if threshold is None else threshold)
    known_architecture(source)
    faults = []
    if labels:
        remedy = "leave away what stands after #"
        faults.append(Fault(f"guard:{word}", "labels", "a text classifier", remedy))
    if threshold is not None:
        found, remedy = "a threshold", "leave --threshold away: this guard answers without scores"
        faults.append(Fault(f"guard:{word}", found, "a text classifier", remedy))
    if faults:
        raise ConfigError.of(*faults)
    from tanren.moderate.chat_guard import load_chat_guard

    return load_chat_guard(source)


def _classifies(source: Source) -> bool:
    architectures = source.config.get("architectures") or []
    return any(str(name).endswith("ForSequenceClassification") for name in architectures)
