"""Numbers as people and models write them."""

import decimal
import re

_MINUS = "-−﹣－"
_CURRENCY = "$€£¥"
# Comma, no-break space, thin space, narrow no-break space, apostrophes: separators of thousands.
_SEPARATORS = ",\u00a0\u2009\u202f"

NUMBER_PATTERN = (
    # A minus after a letter, a digit or a bracket subtracts or joins ("10-12", "step-3"); it is no sign.
    rf"(?:(?<![\w)])[+{_MINUS}])?[{_CURRENCY}]?(?:(?<![\w)])[{_MINUS}])?"
    rf"(?:\d[\d{_SEPARATORS}]*(?:\.\d+)?|\.\d+)"
)
"""Finds numbers inside a text; has no groups."""

_LONGEST_NUMBER = 1000
_LARGEST_EXPONENT = 1000
_DROPPED = str.maketrans("", "", _SEPARATORS + _CURRENCY + "%\\")
_SIGNS = str.maketrans(dict.fromkeys(_MINUS, "-"))
_PLAIN_NUMBER = re.compile(r"([+-]?)(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d{1,4}))?")


def parse_number(text: str) -> decimal.Decimal | None:
    """Return the number that ``text`` says and nothing else, exactly; ``None`` if it says none.

    Dropped first: white space around it, separators of thousands (a comma is never decimal), currency and percent
    signs, backslashes before them, and periods at the end. Numbers beyond 1000 digits or an exponent of ±1000 are none.
    """
    cleaned = text.strip()
    if len(cleaned) > _LONGEST_NUMBER:
        return None
    cleaned = cleaned.translate(_DROPPED).translate(_SIGNS).strip().rstrip(".")
    match = _PLAIN_NUMBER.fullmatch(cleaned)
    if match is None or abs(int(match[3] or 0)) > _LARGEST_EXPONENT:
        return None
    return decimal.Decimal(cleaned)
