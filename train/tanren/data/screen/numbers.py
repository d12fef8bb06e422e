"""Check digits: what tells a number that means somebody from one that only looks like it."""

from __future__ import annotations

_ISSUERS = (
    # first prefix, last prefix, lengths
    (34, 34, (15,)),  # American Express
    (37, 37, (15,)),
    (300, 305, (14,)),  # Diners Club
    (36, 36, (14,)),
    (38, 39, (14,)),
    (3528, 3589, (16, 17, 18, 19)),  # JCB
    (4, 4, (13, 16, 19)),  # Visa
    (51, 55, (16,)),  # Mastercard
    (2221, 2720, (16,)),
    (6011, 6011, (16, 17, 18, 19)),  # Discover
    (644, 659, (16, 17, 18, 19)),
    (62, 62, (16, 17, 18, 19)),  # UnionPay
)

_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22,
    "BR": 29, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20,
    "EG": 29, "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18,
    "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26, "IT": 27, "JO": 30,
    "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MD": 24,
    "ME": 22, "MK": 19, "MT": 31, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PT": 25, "QA": 29,
    "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26,
    "UA": 29, "VG": 24, "XK": 20,
}  # fmt: skip


def passes_luhn(digits: str) -> bool:
    """The check of ISO/IEC 7812-1, annex B: every second digit from the right is doubled."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_card(digits: str) -> bool:
    """A length that the issuer of this prefix gives out, and the Luhn check."""
    issued = any(
        first <= int(digits[: len(str(first))]) <= last and len(digits) in lengths
        for first, last, lengths in _ISSUERS
    )
    return issued and passes_luhn(digits)


def is_my_number(digits: str) -> bool:
    """Twelve digits, the last being the check digit of the first eleven.

    Ordinance No. 85 of 2014 of the Ministry of Internal Affairs and Communications, article 5:
    11 - (sum of P_n Q_n mod 11), where P_n is the n-th digit from the right without the check
    digit and Q_n is n + 1 for n up to 6, n - 5 above; 0 where the remainder is 0 or 1. One digit
    twelve times is nobody's.
    """
    if len(digits) != 12 or len(set(digits)) == 1:
        return False
    body = [int(digit) for digit in reversed(digits[:11])]
    total = sum(p * (n + 1 if n <= 6 else n - 5) for n, p in enumerate(body, start=1))
    remainder = total % 11
    return int(digits[11]) == (0 if remainder <= 1 else 11 - remainder)


def is_ssn(area: str, group: str, serial: str) -> bool:
    """Whether such a number can have been given out (areas 000, 666 and 900-999 never were)."""
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_iban(compact: str) -> bool:
    """Country, its length, and ISO 13616's check: the moved number is 1 modulo 97."""
    if _IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    moved = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1
