"""Every error a user can meet, as one tree.

TanrenError                 anything this package raises on purpose; has an exit code
├── UserError               the input is wrong: the user mends it and starts again (exit 2)
│   ├── ConfigError         a setting is unknown, of a wrong type, or out of bounds
│   ├── DataError           rows of a data file cannot be used
│   ├── ModelError          a model, tokenizer or template cannot be used
│   └── RunError            a run directory is missing, incomplete, changed, or in use
├── WorkError               the input was right, the work failed (exit 1)
│   ├── DivergenceError     loss, gradient or weights are no longer finite
│   ├── OutOfMemoryError        one row alone does not fit into the device's memory
│   ├── StorageError        the disk is full or not writable; nothing was lost
│   └── ProofError          what was written does not match what was trained
└── Interrupted             Ctrl-C or SIGTERM; a checkpoint was saved (exit 130)

Rules for a new error: it stands here; it also inherits the built-in type that a caller would
expect; and its message is made of faults that say where, what was found, what was expected, and the
remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, in the four parts that a person needs to mend it.

    `where` is a path a person can go to: `data/chat.jsonl:17 messages[2].role` or
    `training.batch_size`. `found` and `expected` are shown as they are, so quote values inside
    them. `remedy` is an imperative sentence part.
    """

    where: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: found {self.found}, expected {self.expected}; {self.remedy}"

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


class TanrenError(Exception):
    """Base of all errors raised on purpose. `faults` holds every one that was found, never only the
    first.
    """

    exit_code = 1

    def __init__(self, message: str, faults: Iterable[Fault] = ()) -> None:
        self.message = message
        self.faults: Sequence[Fault] = tuple(faults)
        super().__init__(message)

    @classmethod
    def of(cls, *faults: Fault) -> TanrenError:
        """An error whose whole message is its faults."""
        count = len(faults)
        return cls(f"{count} fault{'s' if count != 1 else ''} found", faults)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {fault}" for fault in self.faults)])


class UserError(TanrenError, ValueError):
    """The user's mistake. Shown without a traceback; the command exits with 2."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is unknown, of a wrong type, out of bounds, or contradicts another."""


class DataError(UserError):
    """Rows of a data file cannot be used."""


class ModelError(UserError):
    """A model, its tokenizer, its template or an adapter target cannot be used as asked."""


class RunError(UserError):
    """A run directory is missing, incomplete, was made from other data or settings, or is in
    use.
    """


class WorkError(TanrenError, RuntimeError):
    """The input was right and the work failed all the same. The command exits with 1."""


class DivergenceError(WorkError, ArithmeticError):
    """Loss, gradient norm or weights stopped being finite. The last good checkpoint is kept."""


class OutOfMemoryError(WorkError, MemoryError):
    """One row alone does not fit into the device's memory, so the micro-batch cannot shrink
    further.
    """


class StorageError(WorkError, OSError):
    """The disk is full or not writable. What was saved before is untouched."""

    def __str__(self) -> str:  # OSError's own __str__ would hide the faults
        return TanrenError.__str__(self)


class ProofError(WorkError, AssertionError):
    """What was written to disk does not behave like what was trained."""


class Interrupted(TanrenError):
    """Ctrl-C or SIGTERM. A checkpoint was saved and the message says how to go on."""

    exit_code = 130
