"""Hard budgets: cost is reserved before an item is asked and settled when it is known."""

import bisect
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from services.runtime.usage import Usage

_RESERVED_QUANTILE = 0.9
_REMEMBERED_ITEMS = 200


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend; ``None`` is not limited. Units and meaning: ``Budget`` in evaluation.proto."""

    items: int | None = None
    tokens: int | None = None
    engine_seconds: float | None = None
    cost_micro_usd: int | None = None
    wall_seconds: float | None = None

    @property
    def is_limited(self) -> bool:
        """Whether anything is limited."""
        return any(getattr(self, each.name) is not None for each in fields(self))

    @property
    def limits_cost(self) -> bool:
        """Whether anything is limited of which nobody knows how much an item takes."""
        return not (self.tokens is None and self.engine_seconds is None and self.cost_micro_usd is None)


@dataclass(frozen=True, slots=True)
class Spend:
    """What was spent, counted as a budget is."""

    items: float = 0
    tokens: float = 0
    engine_seconds: float = 0.0
    cost_micro_usd: float = 0

    def __add__(self, other: "Spend") -> "Spend":
        """Both together."""
        return Spend(
            self.items + other.items,
            self.tokens + other.tokens,
            self.engine_seconds + other.engine_seconds,
            self.cost_micro_usd + other.cost_micro_usd,
        )

    def __sub__(self, other: "Spend") -> "Spend":
        """Without the other."""
        return Spend(
            self.items - other.items,
            self.tokens - other.tokens,
            self.engine_seconds - other.engine_seconds,
            self.cost_micro_usd - other.cost_micro_usd,
        )

    def __mul__(self, count: float) -> "Spend":
        """So many times as much."""
        return Spend(*(count * getattr(self, each.name) for each in fields(self)))

    @property
    def mean(self) -> "Spend":
        """What one of its items cost on average; there is at least one."""
        return Spend(*(getattr(self, each.name) / self.items for each in fields(self)))

    @classmethod
    def of_item(cls, usage: Usage) -> "Spend":
        """What an item with this usage takes from a budget."""
        tokens = usage.computed_prompt_tokens + usage.computed_completion_tokens
        return cls(1, tokens, usage.engine_seconds, usage.cost_micro_usd)


class ItemCosts:
    """What the items of a task have cost lately, one window for each kind of cost."""

    def __init__(self) -> None:
        self._recent: deque[Spend] = deque(maxlen=_REMEMBERED_ITEMS)
        self._sorted: dict[str, list[float]] = {each.name: [] for each in fields(Spend)}

    def add(self, spend: Spend) -> None:
        """Note the cost of one item."""
        if len(self._recent) == _REMEMBERED_ITEMS:
            self._forget(self._recent[0])
        self._recent.append(spend)
        for name, values in self._sorted.items():
            bisect.insort(values, getattr(spend, name))

    def _forget(self, spend: Spend) -> None:
        for name, values in self._sorted.items():
            del values[bisect.bisect_left(values, getattr(spend, name))]

    @property
    def high(self) -> Spend | None:
        """What nine of ten items cost at most, or the mean where that is more; ``None`` before the first item."""
        count = len(self._recent)
        if not count:
            return None
        place = min(count - 1, int(_RESERVED_QUANTILE * count))
        return Spend(**{name: max(values[place], sum(values) / count) for name, values in self._sorted.items()})


class BudgetKeeper:
    """Says which items may still be asked.

    An item is admitted while what was spent, what is reserved for the items in flight and what this one will probably
    cost fit into the budget together. So what is spent in the end exceeds the budget by no more than the sum, over the
    items in flight when the last was admitted, of what each cost beyond its reservation. Until the cost of one item of
    a task is known, and something but items and time is limited, a single one of its items is in flight.

    Args:
        budget: the limits.
        spent: what an earlier process spent.
        now: seconds since the run's first item was started.
        probes: one item of a task goes ahead of its others also where the budget does not ask for it: the caller's
            does.
    """

    def __init__(self, budget: Budget, *, spent: Spend, now: Callable[[], float], probes: bool = False) -> None:
        self._budget = budget
        self._probes = probes
        self._spent = spent
        self._reserved = Spend()
        self._now = now
        # Apart, whether an earlier run has paid: what comes out of a cache says nothing of what does not.
        self._costs: dict[tuple[str, bool], ItemCosts] = {}
        self._probing: set[tuple[str, bool]] = set()

    @property
    def spent(self) -> Spend:
        """What was spent so far, without what is in flight."""
        return self._spent

    @property
    def wall_seconds(self) -> float:
        """Seconds since the run's first item was started."""
        return self._now()

    @property
    def wall_seconds_left(self) -> float | None:
        """Seconds until time is up; ``None`` if time is not limited."""
        return None if self._budget.wall_seconds is None else self._budget.wall_seconds - self._now()

    def learn(self, task: str, spend: Spend) -> None:
        """Take an earlier item of ``task`` as a hint of what the next will cost."""
        self._costs_of(task, is_repeated=False).add(spend)

    def reserve(self, task: str, *, is_repeated: bool = False) -> Spend | None:
        """What is reserved for one more item of ``task``; ``None`` if it does not fit as long as nothing is settled.

        Args:
            task: whose item.
            is_repeated: an earlier run under the same budget has paid for it, so that it is no further item. Only
                where there are caches does it cost nothing more, so that it is reserved for like any other.
        """
        left = self.wall_seconds_left
        if left is not None and left <= 0:
            return None
        known = self._costs_of(task, is_repeated=is_repeated).high
        if known is None and (task, is_repeated) in self._probing:
            return None
        cost = replace(known or Spend(), items=0 if is_repeated else 1)
        if not self._fits(self._spent + self._reserved + cost):
            return None
        if known is None and self._limits_cost:
            self._probing.add((task, is_repeated))
        self._reserved += cost
        return cost

    def reserve_block(self, task: str, count: int) -> Spend | None:
        """What is reserved for so many further items of ``task`` together, none of which an earlier run has paid for.

        ``None`` if they do not fit as long as nothing is settled, or as long as nobody knows what one of them costs.
        """
        left = self.wall_seconds_left
        if left is not None and left <= 0:
            return None
        known = self._costs_of(task, is_repeated=False).high
        if known is None and self._limits_cost:
            return None
        cost = replace(known or Spend(), items=1) * count
        if not self._fits(self._spent + self._reserved + cost):
            return None
        self._reserved += cost
        return cost

    def settle_block(self, reserved: Spend, actual: Spend) -> None:
        """Replace a block's reservation, or a part of it, by what its items cost.

        What the next item costs is not learned from sums, which vary less than items do.
        """
        self._reserved -= reserved
        self._spent += actual

    def settle(self, task: str, reserved: Spend, actual: Spend | None) -> None:
        """Replace a reservation by what the item cost; ``None``: it was cancelled and counts as what was reserved."""
        self._reserved -= reserved
        self._spent += reserved if actual is None else actual
        self._probing.discard((task, _is_repeated(reserved)))
        if actual is not None:
            self._costs_of(task, is_repeated=_is_repeated(reserved)).add(actual)

    def give_back(self, task: str, reserved: Spend) -> None:
        """Drop a reservation whose item was not asked."""
        self._reserved -= reserved
        self._probing.discard((task, _is_repeated(reserved)))

    def _costs_of(self, task: str, *, is_repeated: bool) -> ItemCosts:
        return self._costs.setdefault((task, is_repeated), ItemCosts())

    @property
    def _limits_cost(self) -> bool:
        return self._probes or self._budget.limits_cost

    def _fits(self, spend: Spend) -> bool:
        for each in fields(Spend):
            limit = getattr(self._budget, each.name)
            if limit is not None and getattr(spend, each.name) > limit:
                return False
        return True


def _is_repeated(reserved: Spend) -> bool:
    """Whether a reservation is for an item that an earlier run has paid for."""
    return reserved.items == 0
