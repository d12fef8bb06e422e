"""The server's own log on stderr: a line a happening, as text for people or as JSON for machines.

Keys, prompts, answers and what files hold are never logged; ids, routes, numbers are.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

_LOGGERS = ("tanren.service", "uvicorn.error")


def start_log(form: Literal["text", "json"]) -> None:
    """Send the service's log to stderr in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(AsJson() if form == "json" else AsText())
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    logging.getLogger("tanren.service").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it tells bytes of forms


class AsText(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        words = " ".join(f"{name}={_word(value)}" for name, value in facts.items())
        line = f"{_time(record)} {record.levelname.lower()} {record.getMessage()} {words}"
        return line.rstrip().replace("\n", "\\n")


class AsJson(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        return json.dumps(facts, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _word(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text else text
