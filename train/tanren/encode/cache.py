"""Keeps encoded data on disk, so that the same bytes are never encoded twice (T18)."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tanren.encode.encoded import Encoded
from tanren.encode.ledger import Ledger
from tanren.encode.rows import EncodeSettings
from tanren.template import ChatRenderer, backend_of

ENCODE_VERSION = 1
"""Counts up when the same input encodes to something else; older files are then never found."""

_LEDGER, _SOURCES = "ledger", "sources"


@dataclass(frozen=True, slots=True)
class Hit:
    encoded: Encoded
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class Miss:
    """Nothing to be had. `broken` tells what is wrong with a file that is there; None: no file."""

    broken: str | None = None


def cache_key(
    data: Iterable[tuple[str, str]], renderer: ChatRenderer, settings: EncodeSettings
) -> str:
    """sha256 (hex) over everything that encoding depends on.

    `data` is (file as the user named it, sha256 of its bytes) of each file in order. The key holds
    the template and how it is rendered, the whole tokenizer, the settings, and our own version.
    """
    tokenizer = renderer.tokenizer
    parts = {
        "version": ENCODE_VERSION,
        "data": list(data),
        "template": renderer.template,
        "facts": renderer.facts.as_dict(),
        "special_tokens": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        "settings": asdict(settings),
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode())
    digest.update(backend_of(tokenizer).to_str().encode())
    return digest.hexdigest()


class EncodedCache:
    """A directory of `<key>.npz` files. A file appears whole or not at all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, key: str) -> Path:
        return self.directory / f"{key}.npz"

    def load(self, key: str) -> Hit | Miss:
        """What was stored under `key`. A file that cannot be read is a miss and says why."""
        path = self.path(key)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            ledger = Ledger.from_dict(json.loads(arrays[_LEDGER].tobytes()))
            sources = tuple(json.loads(arrays[_SOURCES].tobytes()))
            encoded = Encoded.from_arrays(arrays, sources)
        except FileNotFoundError:
            return Miss()
        except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile) as error:
            return Miss(f"{path} cannot be read ({error}); the data is encoded again")
        return Hit(encoded, ledger)

    def store(self, key: str, encoded: Encoded, ledger: Ledger) -> Path:
        """Writes aside, then renames. Raises OSError where the disk is full or not writable."""
        self.directory.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=self.directory, prefix=f".{key[:8]}-", suffix=".part")
        aside = Path(name)
        try:
            with os.fdopen(number, "wb") as file:
                np.savez(
                    file,
                    allow_pickle=False,
                    **encoded.arrays(),
                    ledger=_json_bytes(ledger.as_dict()),
                    sources=_json_bytes(encoded.sources),
                )
            os.replace(aside, self.path(key))
        finally:
            aside.unlink(missing_ok=True)
        return self.path(key)


def _json_bytes(value: object) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode(), dtype=np.uint8)
