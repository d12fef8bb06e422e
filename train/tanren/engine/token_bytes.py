"""The bytes that a token stands for: several tokens may share a character."""

from __future__ import annotations

import json
import re

from transformers import PreTrainedTokenizerFast

from tanren.template import backend_of

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """`of(id)` for one tokenizer: byte-level, with byte fallback, or of plain words."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        backend = backend_of(tokenizer)
        self._backend = backend
        self._added = {
            id: token.content for id, token in backend.get_added_tokens_decoder().items()
        }
        self._byte_level = '"ByteLevel"' in json.dumps(
            [json.loads(backend.to_str())[part] for part in ("decoder", "pre_tokenizer")]
        )
        self._known: dict[int, bytes] = {}

    def of(self, token_id: int) -> bytes:
        """Empty for ids that no token has."""
        found = self._known.get(token_id)
        if found is None:
            found = self._known[token_id] = self._read(token_id)
        return found

    def text(self, token_id: int) -> str:
        """The token as text; where it is only a part of a character: `bytes:` and its bytes, as in
        `bytes:\\xe3\\x81`.
        """
        own = self.of(token_id)
        try:
            return own.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in own)

    def _read(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_level:
            return bytes(_BYTE_OF[letter] for letter in token if letter in _BYTE_OF)
        byte = _BYTE.fullmatch(token)
        if byte:
            return bytes([int(byte[1], 16)])
        return token.replace("\u2581", " ").encode()


def _bytes_of_letters() -> dict[str, int]:
    """The letters by which byte-level vocabularies write bytes (GPT-2): printable ones as they are,
    the others from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _bytes_of_letters()
