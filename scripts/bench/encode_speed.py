"""CPU seconds of reading and of encoding a chat file, alone in a process of one thread.

python -m bench.encode_speed DATA.jsonl MODEL REPEATS
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tanren.config import ModelConfig
from tanren.data.read import ChatReader
from tanren.encode import EncodeSettings, encode
from tanren.model import context_length, load_tokenizer, locate
from tanren.template import ChatRenderer


def main() -> None:
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2], repeats=int(sys.argv[3]))))


def measure(path: Path, model: str, *, repeats: int) -> dict[str, Any]:
    """Counts of rows and tokens, and CPU seconds of each stage, the best of the repeats."""
    source = locate(ModelConfig(name=model))
    renderer = ChatRenderer(load_tokenizer(source))
    settings = EncodeSettings(model_max_length=context_length(source.config))
    examples = list(ChatReader(path))
    encoded, ledger = encode(examples, renderer, settings)
    stages: dict[str, Callable[[], Any]] = {
        "reading": lambda: deque(ChatReader(path), maxlen=0),
        "encoding": lambda: encode(examples, renderer, settings),
        "reading and encoding": lambda: encode(ChatReader(path), renderer, settings),
    }
    return {
        "rows": ledger.source_rows,
        "tokens": len(encoded.input_ids),
        "trained_tokens": ledger.trained_tokens,
        "refused": ledger.refused_rows,
        "cpu": {name: min(seconds(work) for _ in range(repeats)) for name, work in stages.items()},
    }


def seconds(work: Callable[[], Any]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


if __name__ == "__main__":
    main()
