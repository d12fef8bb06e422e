"""Single keys and single lines from a terminal, or from a pipe that stands for one."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
from collections.abc import Iterator

END = ""
"""What `key` gives at the end of the input."""
_UNKNOWN = "\x00"
_ESCAPED = re.compile("\x1b(?:\\[[0-9;?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)
_MOST_BYTES = 4096


class Keys:
    """Reads a descriptor itself, so that keys typed ahead are not lost in somebody's buffer.

    On a terminal a key counts at once; from a pipe each character is a key and line ends are
    passed over.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._terminal = os.isatty(descriptor)
        self._decoder = codecs.getincrementaldecoder(_encoding())(errors="replace")
        self._typed = ""

    def key(self) -> str:
        """The next key, in lower case; END when there are no more. Arrows and the like are keys
        that mean nothing.
        """
        with self._key_by_key():
            while True:
                if not self._typed and not self._read():
                    return END
                found = _ESCAPED.match(self._typed)
                if found:
                    self._typed = self._typed[found.end() :]
                    return _UNKNOWN
                key, self._typed = self._typed[0], self._typed[1:]
                if key == "\x04":  # Ctrl-D, which ends a terminal's input
                    return END
                if key not in "\r\n":
                    return key.lower()

    def line(self) -> str:
        """The next line without its end; what the terminal lets a person edit first."""
        while "\n" not in self._typed and self._read():
            pass
        line, _, self._typed = self._typed.partition("\n")
        return line.rstrip("\r")

    def _read(self) -> bool:
        """More characters; False at the end of the input."""
        before = len(self._typed)
        while len(self._typed) == before:
            found = os.read(self._descriptor, _MOST_BYTES)
            if not found:
                return False
            self._typed += self._decoder.decode(found)
        return True

    @contextlib.contextmanager
    def _key_by_key(self) -> Iterator[None]:
        """A terminal that hands over each key at once and does not print it."""
        if not self._terminal:
            yield
            return
        try:
            import termios
            import tty
        except ModuleNotFoundError:  # Windows: keys count when Enter is pressed
            yield
            return
        before = termios.tcgetattr(self._descriptor)
        try:
            tty.setcbreak(self._descriptor, termios.TCSADRAIN)
            yield
        finally:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)


def _encoding() -> str:
    """Standard input's own, or UTF-8 where that could not hold Japanese (T26)."""
    own = sys.stdin.encoding if sys.stdin is not None else "utf-8"
    try:
        "日本語 é".encode(own)
    except (UnicodeEncodeError, LookupError):
        return "utf-8"
    return own
