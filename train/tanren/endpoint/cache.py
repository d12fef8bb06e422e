"""Keeps replies on disk by what was asked, so that nothing is asked, or paid, twice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tanren.endpoint.reply import Reply
from tanren.endpoint.settings import EndpointConfig
from tanren.rundir import home, storage_errors, write_text

CACHE_VERSION = 1
"""Counts up when the same request would be kept in another shape."""


def request_key(config: EndpointConfig, messages: list[dict[str, Any]], sample: int = 0) -> str:
    """sha256 (hex) over all that a reply depends on: address, model, messages and how to answer.

    `sample` tells several replies to one conversation apart, where they are drawn at random.
    """
    asked = {
        "version": CACHE_VERSION,
        "url": config.url,
        "body": config.body(messages),
        "sample": sample,
    }
    text = json.dumps(asked, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class ReplyCache:
    """One small file for each reply, under the first letters of its key. Holds no key of the user,
    only what was answered.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where; None: `cache/replies` under $TANREN_HOME."""
        self.folder = folder or home() / "cache" / "replies"

    def get(self, key: str) -> Reply | None:
        """The kept reply. None where there is none, or none that can be read."""
        try:
            values = json.loads(self._file(key).read_text(encoding="utf-8"))
            return Reply(**{**values, "cached": True})
        except (OSError, ValueError, TypeError):
            return None  # asked again, and written anew

    def put(self, key: str, reply: Reply) -> None:
        file = self._file(key)
        with storage_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(reply.as_dict(), ensure_ascii=True) + "\n")

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
