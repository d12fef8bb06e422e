"""Numbers as people read them: a share as percent, a difference of shares as points."""

from __future__ import annotations

NOTHING = "–"

_SHORT = {"tokens": "tokens", "characters": "characters", "seconds": "s", "nats": "nats"}


def shown(value: float | None, unit: str) -> str:
    """0.623 of a share -> 62.3%; 31.24 points -> 31.2; 0.5312 nats -> 0.531 nats."""
    if value is None:
        return NOTHING
    if unit == "share":
        return f"{100 * value:.1f}%"
    return f"{_digits(value, unit)}{_suffix(unit)}"


def shown_range(low: float | None, high: float | None, unit: str) -> str:
    """Both ends without a unit: `59.1 to 65.4`."""
    if low is None or high is None:
        return NOTHING
    scale = 100 if unit == "share" else 1
    return f"{_digits(scale * low, unit)} to {_digits(scale * high, unit)}".replace("-", "−")


def shown_size(value: float | None, unit: str) -> str:
    """A difference without sign and unit, as in a column that names them: 6.2."""
    if value is None:
        return NOTHING
    return _digits(100 * value if unit == "share" else value, unit)


def shown_difference(value: float | None, unit: str) -> str:
    """With its sign; of shares in points: +6.2 points."""
    if value is None:
        return NOTHING
    scaled = 100 * value if unit == "share" else value
    digits = _digits(abs(scaled), unit)
    sign = "±" if float(digits.replace(",", "")) == 0 else "+" if scaled > 0 else "−"
    return f"{sign}{digits}{' points' if unit == 'share' else _suffix(unit)}"


def shown_p(p: float | None) -> str:
    if p is None:
        return NOTHING
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


def counted(number: int, noun: str) -> str:
    """1 row, 2 rows."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else NOTHING


def _digits(value: float, unit: str) -> str:
    if unit in ("share", "points", "characters", "tokens"):
        return f"{value:,.1f}"
    if unit == "likert":
        return f"{value:.2f}"
    return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _suffix(unit: str) -> str:
    if unit == "points":
        return ""
    if unit == "likert":
        return " of 5"
    return f" {_SHORT.get(unit, unit)}" if unit else ""
