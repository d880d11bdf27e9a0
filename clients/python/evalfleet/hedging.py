"""Second requests for slow calls: when one is due, and how many there may be.

gRPC has a hedging policy in its service config, which its Python library ignores; and a fixed delay would be wrong for
most methods.
"""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

_KEPT_LATENCIES: Final = 256
_REFRESHED_EVERY: Final = 16
_MOST_SAVED: Final = 5.0
# Twenty times a twentieth is a little less.
_ONE: Final = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class Hedging:
    """How calls are hedged: one that takes longer than most is asked a second time, and the first answer counts.

    Only calls that change nothing are, whose answers the services keep or share: verdicts, scores, log-likelihoods,
    answers that are greedy or have a seed, and whatever is only read. It shortens the slowest calls where a service has
    several replicas, because the second request goes to another one.

    Attributes:
        quantile: of the latencies seen lately; slower calls are hedged.
        budget: second requests for each call, at most: 0.05 adds at most 5 % of load.
        fewest_calls: latencies of a method that must be known before its first call is hedged.
    """

    quantile: float = 0.95
    budget: float = 0.05
    fewest_calls: int = 20

    def __post_init__(self) -> None:
        """Raise ValueError for what is no share."""
        if not 0 < self.quantile < 1 or not 0 < self.budget <= 1 or self.fewest_calls < 1:
            raise ValueError("quantile and budget are shares from 0 to 1, and fewest_calls is at least 1")


class Hedger:
    """The latencies of one connection's calls, and the second requests that they have earned; for any threads.

    Calls are told apart by the type of their request.
    """

    def __init__(self, hedging: Hedging) -> None:
        self._hedging = hedging
        self._latencies: dict[type, _Latencies] = {}
        self._earned = 0.0
        self._lock = threading.Lock()

    def delay_seconds(self, request: object) -> float | None:
        """Note a call that begins; return after how long a second request is due, or ``None`` for never."""
        with self._lock:
            self._earned = min(_MOST_SAVED, self._earned + self._hedging.budget)
            known = self._latencies.get(type(request))
            return known.quantile if known is not None else None

    def may_spend(self) -> bool:
        """Take the right to one second request; false if none is left."""
        with self._lock:
            if self._earned < _ONE:
                return False
            self._earned -= 1
            return True

    def answered(self, request: object, seconds: float) -> None:
        """Note how long a call took, from its first request on."""
        with self._lock:
            known = self._latencies.setdefault(type(request), _Latencies(self._hedging))
            known.add(seconds)


class _Latencies:
    """The latest latencies of one method."""

    def __init__(self, hedging: Hedging) -> None:
        self._hedging = hedging
        self._seconds: deque[float] = deque(maxlen=_KEPT_LATENCIES)
        self._since_refreshed = 0
        self.quantile: float | None = None

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)
        self._since_refreshed += 1
        is_first = self.quantile is None and len(self._seconds) >= self._hedging.fewest_calls
        if is_first or (self.quantile is not None and self._since_refreshed >= _REFRESHED_EVERY):
            ordered = sorted(self._seconds)
            self.quantile = ordered[min(len(ordered) - 1, int(self._hedging.quantile * len(ordered)))]
            self._since_refreshed = 0
