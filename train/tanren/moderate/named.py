"""What `--moderator WORD` means: an endpoint's address or YAML file, or a guard model."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from tanren.data.screen.moderator import Moderator
from tanren.endpoint.journal import Journal
from tanren.endpoint.moderations import ModerationConfig, load_moderation
from tanren.errors import ConfigError, Fault

_URL = re.compile(r"https?://", re.IGNORECASE)
EXPECTED = "words:FILE, guard:MODEL, http://HOST/v1#MODEL or a YAML file"


def named_moderator(
    word: str, *, threshold: float | None = None, journal: Journal | None = None
) -> Moderator:
    """Raises ConfigError or ModelError where the word means nothing that is there.

    `threshold`: scores from there on are unsafe, instead of what the moderator itself calls so.
    `journal` keeps an endpoint's spending over several starts.
    """
    if word.startswith("guard:"):
        from tanren.moderate.guard import load_guard

        return load_guard(word.removeprefix("guard:"), threshold=threshold)
    from tanren.moderate.remote import EndpointModerator

    return EndpointModerator(_endpoint(word), threshold=threshold, journal=journal)


def _endpoint(word: str) -> ModerationConfig:
    if not _URL.match(word):
        if word.endswith((".yaml", ".yml")):
            return load_moderation(Path(word))
        raise ConfigError.of(Fault("--moderator", repr(word), EXPECTED, "write one of them"))
    address, _, model = word.partition("#")
    if not model:
        remedy = "write the model's name after a #"
        raise ConfigError.of(Fault(word, "no model", "https://HOST/v1#MODEL", remedy))
    # Who writes an address names its host: rows may be sent there.
    try:
        host = (urlsplit(address).hostname or "").lower()
    except ValueError:
        host = ""
    values = {"base_url": address, "model": model, "remote_host": host or None}
    return load_moderation(None, values)
