"""The price table: what computing costs, by model and engine."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Protocol

from services.runtime.errors import StartupError

_NANO_USD = 1_000_000_000
_MILLION = 1_000_000


class Computed(Protocol):
    """What engines computed for an answer."""

    @property
    def engine_seconds(self) -> float:
        """Seconds of engines."""

    @property
    def computed_prompt_tokens(self) -> int:
        """Tokens of prompts, without those that were known."""

    @property
    def computed_completion_tokens(self) -> int:
        """Tokens that were generated or scored."""


@dataclass(frozen=True, slots=True)
class Price:
    """What one kind of model costs; parts that are 0 are free.

    Attributes:
        models: pattern of model ids, of guards with ``guards/`` before them, ``*`` and ``?`` as in a shell.
        engine: pattern of engine names.
        usd_per_engine_second: US dollars a second of the engine's time.
        usd_per_million_prompt_tokens: US dollars for a million prompt tokens that were computed.
        usd_per_million_completion_tokens: US dollars for a million tokens that were generated or scored.
    """

    models: str = "*"
    engine: str = "*"
    usd_per_engine_second: float = 0.0
    usd_per_million_prompt_tokens: float = 0.0
    usd_per_million_completion_tokens: float = 0.0

    def nano_usd(self, usage: Computed) -> int:
        """Return the price of what was computed, in 1e-9 US dollars."""
        usd = (
            usage.engine_seconds * self.usd_per_engine_second
            + usage.computed_prompt_tokens * self.usd_per_million_prompt_tokens / _MILLION
            + usage.computed_completion_tokens * self.usd_per_million_completion_tokens / _MILLION
        )
        return math.ceil(usd * _NANO_USD - 1e-6)


class PriceTable:
    """Prices in order: the first whose patterns match a model and its engine counts; without a match all is free."""

    def __init__(self, prices: Sequence[Price] = ()) -> None:
        self._prices = tuple(prices)

    def nano_usd(self, model_id: str, engine: str, usage: Computed) -> int:
        """Return the price of an answer, in 1e-9 US dollars."""
        for price in self._prices:
            if fnmatchcase(model_id, price.models) and fnmatchcase(engine, price.engine):
                return price.nano_usd(usage)
        return 0


FREE: Final = PriceTable()
"""Nothing costs money."""


def read_price_table(path: Path | None) -> PriceTable:
    """Read a table from JSON: ``{"prices": [{"models": "*-70b*", "usd_per_engine_second": 0.0011}, …]}``.

    Args:
        path: the file; ``None``: everything is free.

    Raises:
        StartupError: there is no such file, or something in it is not understood.
    """
    if path is None:
        return FREE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(table, dict) or set(table) != {"prices"} or not isinstance(table["prices"], list):
            raise ValueError('it must hold {"prices": [...]} and nothing else')
        return PriceTable([_price(each, index) for index, each in enumerate(table["prices"])])
    except (OSError, ValueError) as error:
        raise StartupError(f"cannot read the price table {path}: {error}; set EVALFLEET_PRICE_TABLE") from error


def _price(entry: Any, index: int) -> Price:
    known = {each.name: each.type for each in fields(Price)}
    if not isinstance(entry, dict):
        raise ValueError(f"prices[{index}] is no object")
    for name, value in entry.items():
        if name not in known:
            raise ValueError(f"prices[{index}] has the unknown field {name!r}; known are {', '.join(known)}")
        if known[name] is str:
            if not isinstance(value, str):
                raise ValueError(f"prices[{index}].{name} must be a text")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"prices[{index}].{name} must be a number that is not negative")
    return Price(**entry)
