"""An export from its request to its proof."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tanren.export.gguf_exports import to_gguf, to_gguf_lora, to_ollama
from tanren.export.request import (
    Exported,
    Kind,
    Request,
    Teller,
    asked_for,
    folder_for,
    require_free,
    size_of,
)
from tanren.export.safetensors_exports import to_adapter, to_merged, to_server
from tanren.export.tuned import Tuned
from tanren.rundir import discard_stale, missing_files, read_json

__all__ = ["Exported", "Request", "export", "proven_before"]


def export(tuned: Tuned, request: Request, tell: Teller) -> Exported:
    """Write the export beside its place, read it back, prove it, and only then let it appear.

    Raises UserError for a request that cannot be met, StorageError where there is no room, and
    ProofError where what was written behaves otherwise; then nothing is left.
    """
    folder = folder_for(tuned, request)
    require_free(tuned, folder, request)
    discard_stale(folder)
    return _WRITERS[request.to](tuned, request, folder, tell)


def proven_before(tuned: Tuned, request: Request) -> Exported | None:
    """The export of this kind that lies in the requested place already, whole and proven."""
    folder = folder_for(tuned, request)
    if not (folder / "proof.json").is_file() or missing_files(folder):
        return None
    proof = read_json(folder / "proof.json")
    if proof.get("kind") != request.to or proof.get("passed") is not True:
        return None
    then = proof.get("asked") or {}
    now = {name: value for name, value in asked_for(tuned, request).items() if value is not None}
    if any(then.get(name) != value for name, value in now.items()):
        return None
    return Exported(
        request.to,
        folder,
        proof["dtype"],
        size_of(folder),
        proof,
        notes=["it was exported before; nothing was written now"],
    )


_WRITERS: dict[Kind, Callable[[Tuned, Request, Path, Teller], Exported]] = {
    "merged": to_merged,
    "adapter": to_adapter,
    "gguf": to_gguf,
    "gguf-lora": to_gguf_lora,
    "ollama": to_ollama,
    "vllm": to_server,
    "sglang": to_server,
}
