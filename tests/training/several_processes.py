"""Carries out runs under torchrun: `several_processes.py [--resume] RUN [RUN ...]`.

Every process but the first ends with 98 when it changes anything inside a run directory.
"""

from __future__ import annotations

import os
import sys
from typing import Any

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}


def only_read(name: str, arguments: tuple[Any, ...]) -> None:
    writes = name in CHANGES or (
        name == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    )
    if writes and any(run in str(argument) for run in RUNS for argument in arguments[:2]):
        print(f"process {os.environ['RANK']} did {name} {arguments}", file=sys.stderr, flush=True)
        os._exit(98)


RUNS = [argument for argument in sys.argv[1:] if not argument.startswith("--")]


def main() -> int:
    import torch

    from tanren.errors import TanrenError
    from tanren.pipeline import execute
    from tanren.rundir import RunDirectory

    torch.set_num_threads(1)
    if os.environ["RANK"] != "0":
        sys.addaudithook(only_read)
    try:
        for path in RUNS:
            execute(RunDirectory(path), resume="--resume" in sys.argv)
    except TanrenError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
