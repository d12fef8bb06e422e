"""How long an answer is, and how many bullets it has."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from tanren.distill.constraints.base import Constraint, Measured, range_problem
from tanren.distill.rows import SourceRow

Unit = Literal["characters", "tokens", "words", "lines", "sentences"]
Count = Annotated[int, Field(ge=0)]

# An end mark before a closing quote ends what was said, not the sentence that tells of it. A full
# stop ends one before white space alone, so that 3.14 is no end.
_SENTENCE_END = re.compile(r"[。！？!?｡．]++(?![」』）)”’\"'])|\.++(?=\s|$)|\n+")
_BULLET = re.compile(
    r"^[ \t　]*(?:[-*+–—][ \t　]+|[•‣◦・●○■□▪◆◇①-⑳][ \t　]*"
    r"|\d{1,3}(?:[.)][ \t　]+|[．）、][ \t　]*))\S",
    re.MULTILINE,
)


class Length(Constraint):
    """Length in one unit, `target` +- `tolerance` or `min` and `max`, both included.

    characters: code points, newlines among them unless `count_newlines` is false. words: runs
    without white space, of no use for Japanese. lines: those that hold something. sentences: by end
    marks and newlines; an abbreviation's full stop counts as one. tokens: of `tokenizer`.
    """

    unit: Unit = Field("characters", description="What is counted.")
    target: Count | None = Field(None, description="The middle of what is allowed.")
    tolerance: Count | None = Field(None, description="How far from `target`; null: 0.")
    min: Count | None = Field(None, description="Least; null: no bound.")
    max: Count | None = Field(None, description="Most; null: no bound.")
    count_newlines: bool = Field(True, description="Of characters: whether newlines are counted.")
    tokenizer: str | None = Field(
        None, description="Folder or hub name of the model whose tokens are counted."
    )
    _count_tokens: Callable[[str], int] | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _consistent(self) -> Length:
        if (self.target is None) == (self.min is None and self.max is None):
            raise ValueError("either target (with tolerance), or min and max")
        if self.target is None and self.tolerance is not None:
            raise ValueError("a target beside tolerance")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("a min that is at most max")
        if (self.unit == "tokens") != (self.tokenizer is not None):
            raise ValueError("tokenizer for the unit tokens, and for no other")
        return self

    @property
    def name(self) -> str:
        return f"length.{self.unit}"

    @property
    def bounds(self) -> tuple[int | None, int | None]:
        if self.target is None:
            return self.min, self.max
        tolerance = self.tolerance or 0
        return max(0, self.target - tolerance), self.target + tolerance

    def count(self, text: str) -> int:
        if self.unit == "characters":
            return len(text if self.count_newlines else text.replace("\n", ""))
        if self.unit == "words":
            return len(text.split())
        if self.unit == "lines":
            return sum(bool(line.strip()) for line in text.split("\n"))
        if self.unit == "sentences":
            return count_sentences(text)
        assert self.tokenizer is not None
        if self._count_tokens is None:
            self._count_tokens = token_counter(self.tokenizer)
        return self._count_tokens(text)

    def measure(self, text: str, row: SourceRow) -> Measured:
        found = self.count(text)
        low, high = self.bounds
        return Measured(found, range_problem("length", found, low, high, unit=self.unit))


class Bullets(Constraint):
    """Number of lines that begin with a bullet (-, *, •, ・, ...) or a number (1., 2), ①, ...)."""

    min: Count | None = Field(None, description="Least; null: no bound.")
    max: Count | None = Field(None, description="Most; null: no bound.")

    @model_validator(mode="after")
    def _consistent(self) -> Bullets:
        if self.min is None and self.max is None:
            raise ValueError("min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("a min that is at most max")
        return self

    @property
    def name(self) -> str:
        return "bullets"

    def measure(self, text: str, row: SourceRow) -> Measured:
        found = len(_BULLET.findall(text))
        return Measured(found, range_problem("bullets", found, self.min, self.max, unit="bullets"))


def count_sentences(text: str) -> int:
    """Pieces between end marks that hold a letter or a digit."""
    return sum(any(c.isalnum() for c in piece) for piece in _SENTENCE_END.split(text))


def token_counter(model: str) -> Callable[[str], int]:
    """Tokens of a text alone, without those that a model puts around it. ModelError if there is no
    such model.
    """
    from tokenizers import Tokenizer

    from tanren.config import ModelConfig
    from tanren.model import load_tokenizer, locate

    config = ModelConfig(name=model)
    backend = load_tokenizer(locate(config), config).backend_tokenizer
    assert isinstance(backend, Tokenizer)
    return lambda text: len(backend.encode(text, add_special_tokens=False).ids)
