"""What the GGUF file in the folder says to Ollama beside the Modelfile."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gguf import GGUFReader

from tanren.errors import Fault, ModelError

_ADDS_BOS = "tokenizer.ggml.add_bos_token"
_CHAT_TEMPLATE = "tokenizer.chat_template"
_HIDDEN_TEMPLATE = "tokenizer.jinja_trained"  # as long as the name above: it is written over it

TEMPLATE_HIDDEN = (
    f"The GGUF file in this folder keeps its chat template under the name {_HIDDEN_TEMPLATE}: from "
    "0.31 on Ollama would take it instead of the proven TEMPLATE where it mentions tools or "
    "reasoning and TEMPLATE does not."
)


def server_adds_bos(file: Path, *, chat_template_adds: bool) -> bool:
    """Does the file tell the server to begin each prompt with a BOS?

    Raises ModelError where that would be one BOS too many (T17) or the file does not say.
    """
    field = GGUFReader(str(file)).get_field(_ADDS_BOS)
    adds = None if field is None else bool(field.contents())
    if adds is None or (adds and not chat_template_adds):
        raise ModelError.of(
            Fault(
                where=f"{file.name} {_ADDS_BOS}",
                found="nothing"
                if adds is None
                else "true: the server begins each prompt with a "
                "BOS that the chat template does not write",
                expected=str(chat_template_adds).lower(),
                remedy="write the GGUF file with that value",
            )
        )
    return adds


def place_model(file: Path, folder: Path) -> tuple[str, bool]:
    """Brings the model into `folder` without a chat template of its own.

    Returns its path from there, and whether a template was hidden. From 0.31 on
    (`shouldPreferChatTemplate` in server/images.go) Ollama counts words in both templates and may
    choose the file's. A file outside `folder`, or one that shares its bytes with another name, is
    never changed: it is copied first.
    """
    if GGUFReader(str(file)).get_field(_CHAT_TEMPLATE) is None:
        return place(file, folder), False
    target = folder / file.name
    if file.parent.resolve() != folder.resolve():
        shutil.copyfile(file, target)
    elif file.stat().st_nlink > 1:
        alone = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(file, alone)
        os.replace(alone, target)
    _hide_template(target)
    return f"./{target.name}", True


def _hide_template(file: Path) -> None:
    field = GGUFReader(str(file)).get_field(_CHAT_TEMPLATE)
    assert field is not None
    name_length = 8  # bytes in front of every name
    with file.open("r+b") as stream:
        stream.seek(field.offset + name_length)
        assert stream.read(len(_CHAT_TEMPLATE)) == _CHAT_TEMPLATE.encode()
        stream.seek(field.offset + name_length)
        stream.write(_HIDDEN_TEMPLATE.encode())


def place(file: Path, folder: Path) -> str:
    """Brings a file into `folder` as it is, linked where the disk allows; its path from there."""
    if file.parent.resolve() != folder.resolve():
        target = folder / file.name
        try:
            os.link(file, target)
        except OSError:
            shutil.copyfile(file, target)
    return f"./{file.name}"
