"""How much each caller may ask of a service: requests a minute, and tokens and money a day.

For callers from outside. What a run asks of other services is bounded by its budgets and by its caller's daily budget,
which the evaluation service keeps for all replicas together.
"""

import math
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.runtime.caller_patterns import CallerPattern, CallerPatterns
from services.runtime.error_types import QuotaViolation, ResourceExhaustedError, StartupError
from services.runtime.security.reloading import Reloaded
from services.runtime.usage import Usage

_DAY_SECONDS: Final = 86_400
_MICRO_USD: Final = 1e6


class QuotaSpec(BaseModel):
    """What one caller may ask of one replica; what is absent is not limited. Days are those of UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_day: int | None = Field(None, ge=1)
    usd_per_day: float | None = Field(None, gt=0, le=1e9, allow_inf_nan=False)


class _QuotasSpec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    callers: Mapping[CallerPattern, QuotaSpec] = Field(default={})
    default: QuotaSpec = QuotaSpec()


@dataclass(slots=True)
class _Spent:
    """What a caller has had on a day, and how many requests it may make at once now."""

    tokens: int = 0
    micro_usd: int = 0
    allowed_requests: float = math.inf
    refilled_seconds: float = 0.0


class Quotas:
    """The quotas of all callers, in one process.

    Each caller whom a pattern fits has that quota for itself. What is in flight when a day's quota is used up goes on,
    so that it is exceeded by no more than what those calls cost.

    Args:
        path: TOML file, read again when it changes.
        now: clock, in seconds since the epoch.

    Raises:
        StartupError: FILE_UNREADABLE, QUOTAS_INVALID.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self._specs = Reloaded([path], lambda: _read(path), name="caller_quotas")
        self._now = now
        self._spent: dict[str, _Spent] = {}
        self._today = -1

    def check(self, caller: str) -> None:
        """Refuse a call of somebody whose day's quota is used up.

        Raises:
            ResourceExhaustedError: CALLER_QUOTA_EXHAUSTED, with the time until the next day.
        """
        pattern, quota = self._specs.current().of(caller)
        spent = self._today_of(caller)
        used = []
        if quota.tokens_per_day is not None and spent.tokens >= quota.tokens_per_day:
            used.append(("tokens_per_day", f"{spent.tokens:,} of {quota.tokens_per_day:,} tokens a day"))
        if quota.usd_per_day is not None and spent.micro_usd >= quota.usd_per_day * _MICRO_USD:
            used.append(
                ("usd_per_day", f"{spent.micro_usd / _MICRO_USD:.2f} of {quota.usd_per_day:.2f} US dollars a day")
            )
        if used:
            seconds_left = _DAY_SECONDS - self._now() % _DAY_SECONDS
            raise _exhausted(caller, pattern, used, retry_after_seconds=seconds_left)

    def take(self, caller: str, requests: int) -> None:
        """Count requests.

        Raises:
            ResourceExhaustedError: CALLER_QUOTA_EXHAUSTED: so many are not allowed now, with the time until they are;
                without one, they never are at once.
        """
        pattern, quota = self._specs.current().of(caller)
        most = quota.requests_per_minute
        if most is None:
            return
        spent = self._today_of(caller)
        now = self._now()
        refill = max(0.0, now - spent.refilled_seconds) * most / 60
        spent.allowed_requests = min(most, spent.allowed_requests + refill)
        spent.refilled_seconds = now
        if requests > spent.allowed_requests:
            wait = (requests - spent.allowed_requests) * 60 / most
            raise _exhausted(
                caller,
                pattern,
                [("requests_per_minute", f"{requests} at once, of {most} requests a minute")],
                retry_after_seconds=wait if requests <= most else None,
            )
        spent.allowed_requests -= requests

    def book(self, caller: str, usage: Usage) -> None:
        """Count what was computed for a caller: tokens, and their price."""
        spent = self._today_of(caller)
        spent.tokens += usage.computed_prompt_tokens + usage.computed_completion_tokens
        spent.micro_usd += usage.cost_micro_usd

    def _today_of(self, caller: str) -> _Spent:
        today = int(self._now() // _DAY_SECONDS)
        if today != self._today:
            # Who is not seen any more is forgotten; nobody's minute matters at midnight.
            self._spent.clear()
            self._today = today
        return self._spent.setdefault(caller, _Spent())


def _read(path: Path) -> CallerPatterns[QuotaSpec]:
    try:
        spec = _QuotasSpec.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise _invalid(path, problems) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(path, str(error)) from None
    return CallerPatterns(spec.callers, spec.default)


def _invalid(path: Path, problem: str) -> StartupError:
    return StartupError(f"EVALFLEET_CALLER_QUOTAS={path}: {problem}", reason="QUOTAS_INVALID")


def _exhausted(
    caller: str, pattern: str, used: list[tuple[str, str]], *, retry_after_seconds: float | None
) -> ResourceExhaustedError:
    listed = ", ".join(text for _, text in used)
    return ResourceExhaustedError(
        f"the quota of the caller {caller!r} is used up: {listed}",
        reason="CALLER_QUOTA_EXHAUSTED",
        metadata={"caller": caller, "pattern": pattern, "used_up": ",".join(name for name, _ in used)},
        retry_after_seconds=retry_after_seconds,
        quota_violations=[QuotaViolation(f"callers/{caller}", f"{name}: {text}") for name, text in used],
    )
