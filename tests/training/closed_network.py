"""Carries out runs with the network closed: `python closed_network.py RUN [RUN ...]`.

A look-up of a name or a connection to another machine ends the process with 97 and says where it
came from, before any library can catch it.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any


def close_the_network(name: str, arguments: tuple[Any, ...]) -> None:
    local = name == "socket.connect" and isinstance(arguments[1], str | bytes)  # a Unix socket
    if name in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname") and not local:
        print(f"the network was asked for: {name} {arguments[1:]}", file=sys.stderr)
        traceback.print_stack()
        sys.stderr.flush()
        os._exit(97)


sys.addaudithook(close_the_network)


def main() -> None:
    from tanren.pipeline import execute
    from tanren.rundir import RunDirectory

    for path in sys.argv[1:]:
        execute(RunDirectory(path))


if __name__ == "__main__":
    main()
