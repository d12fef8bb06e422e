"""What was measured, as a JSON document that reads back equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from tanren.errors import DataError, Fault


class Stored:
    """Of dataclasses. `FILE` is the document's usual name, `WRITTEN_BY` the command that writes it,
    `REMEDY` what to do where it does not fit.
    """

    __slots__ = ()
    FILE: ClassVar[str]
    WRITTEN_BY: ClassVar[str]
    REMEDY: ClassVar[str]

    def to_json(self) -> str:
        return str(_adapter(type(self)).dump_json(self, indent=2).decode("utf-8")) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "") -> Self:
        """DataError naming every place that does not fit."""
        from pydantic import ValidationError

        try:
            found: Self = _adapter(cls).validate_json(text)
        except ValidationError as error:
            faults = [
                Fault(
                    f"{source or cls.FILE} {'.'.join(map(str, item['loc']))}".rstrip(),
                    item["msg"],
                    f"what `{cls.WRITTEN_BY}` writes",
                    cls.REMEDY,
                )
                for item in error.errors()
            ]
            raise DataError.of(*faults) from None
        return found

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls.from_json(path.read_text(encoding="utf-8"), source=str(path))


def _adapter(kind: type[Stored]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
