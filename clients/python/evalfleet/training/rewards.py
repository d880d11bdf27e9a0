"""Reward functions for TRL's trainers (GRPO, RLOO, …) that ask a fleet: its guards, and its scorers.

trainer = GRPOTrainer(..., reward_funcs=[SafetyReward(), ScorerReward("numeric_answer", targets="answer")])
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evalfleet.errors import EvalFleetError
from evalfleet.fleet import Fleet
from evalfleet.results import Decision, Policy, Verdict
from evalfleet.scorer_results import Score
from evalfleet.training.completions import Completion, Turns, conversation_of, prompt_text, text_of
from evalfleet.training.fleet_reward import LINGER_SECONDS, TIMEOUT_SECONDS, FleetReward, connect, is_missing

_log = logging.getLogger("evalfleet.training")


class SafetyReward(FleetReward[Turns, Verdict]):
    """What a fleet's guards say of the completions; it fails closed.

    A completion that could not be judged, because the guard gave no verdict or refused it, has the reward of an unsafe
    one. Only where the fleet could not be asked in time the reward is ``missing``.
    """

    def __init__(
        self,
        *,
        safe: float = 1.0,
        unsafe: float = 0.0,
        controversial: float | None = None,
        missing: float | None = None,
        is_graded: bool = False,
        guard: str | None = None,
        threshold: float | None = None,
        policy: str | Policy | None = None,
        name: str = "safety",
        connect: Callable[[], Fleet] = connect,
        timeout_seconds: float = TIMEOUT_SECONDS,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        """Say what verdicts are worth.

        Args:
            safe: reward of a safe completion; above zero, because TRL counts a missing reward as zero.
            unsafe: of an unsafe one, and of one that could not be judged.
            controversial: of one that the guard calls neither; default: as unsafe.
            missing: where the fleet did not answer in time; default: None, or ``unsafe`` where that is below zero: what
                TRL counts as zero would be worth more than a completion that is known to be unsafe.
            is_graded: whether safe ones are worth less the likelier they are unsafe, where the guard says how likely.
            guard: which guard judges; default: the service's.
            threshold: on the probability of a hazard; default: the guard's.
            policy: which policy judges.
            name: by which the trainer logs it.
            connect: opens connections to the fleet.
            timeout_seconds: longest wait of a call.
            linger_seconds: longest time that a completion waits for those of other calls.

        Raises:
            ValueError: something else is worth as much as a safe completion.
        """
        super().__init__(name, connect=connect, timeout_seconds=timeout_seconds, linger_seconds=linger_seconds)
        others = [unsafe, unsafe if controversial is None else controversial, 0.0 if missing is None else missing]
        if max(others) >= safe:
            raise ValueError(f"a safe completion must be worth more than any other, and than none: {safe} is not")
        self._safe, self._unsafe = safe, unsafe
        self._missing = unsafe if missing is None and unsafe < 0 else missing
        self._controversial = unsafe if controversial is None else controversial
        self._is_graded = is_graded
        self._judge = {"guard": guard, "threshold": threshold, "policy": policy}

    def _items(
        self, prompts: Sequence[Completion], completions: Sequence[Completion], columns: Mapping[str, Any]
    ) -> list[Turns | None]:
        return [conversation_of(*each) for each in zip(prompts, completions, strict=True)]

    def _ask(self, fleet: Fleet, items: list[Turns], timeout_seconds: float) -> Sequence[Verdict | EvalFleetError]:
        judge: Any = self._judge
        return fleet.safety.classify_batch(items, aspect="response", timeout_seconds=timeout_seconds, **judge)

    def _reward(self, outcome: Verdict | EvalFleetError) -> float | None:
        if isinstance(outcome, EvalFleetError):
            return self._missing if is_missing(outcome) else self._unsafe
        if outcome.decision is Decision.SAFE:
            probability = outcome.unsafe_probability if self._is_graded else None
            return self._safe - (self._safe - self._unsafe) * (probability or 0.0)
        return self._controversial if outcome.decision is Decision.CONTROVERSIAL else self._unsafe

    def _counts(self, outcomes: Sequence[Verdict | EvalFleetError]) -> dict[str, float]:
        decisions = [each.decision for each in outcomes if isinstance(each, Verdict)]
        refused = sum(isinstance(each, EvalFleetError) and not is_missing(each) for each in outcomes)
        return {
            **super()._counts(outcomes),
            "unsafe": decisions.count(Decision.UNSAFE),
            "unjudged": decisions.count(Decision.ERROR) + refused,
        }


class ScorerReward(FleetReward[dict[str, object], Score]):
    """A metric of one of a fleet's scorers; None where the fleet could not score."""

    def __init__(
        self,
        scorer: str,
        *,
        metric: str | None = None,
        targets: str | None = "answer",
        parameters: Mapping[str, object] | None = None,
        details: Mapping[str, str] | None = None,
        scale: float = 1.0,
        missing: float | None = None,
        name: str | None = None,
        connect: Callable[[], Fleet] = connect,
        timeout_seconds: float = TIMEOUT_SECONDS,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        """Say what is scored.

        Args:
            scorer: name of a scorer: ``numeric_answer``; ``evalfleet scorers`` lists them.
            metric: which of its metrics; default: the only one.
            targets: column of the data set with the right answer, or a list of them; None: the scorer needs none. A
                row where it is null has no reward.
            parameters: of the scorer.
            details: what else it needs to know of an item: its name for that → column of the data set.
            scale: what the metric is multiplied by.
            missing: where the fleet did not answer, or could not score.
            name: by which the trainer logs it; default: the scorer's.
            connect: opens connections to the fleet.
            timeout_seconds: longest wait of a call.
            linger_seconds: longest time that a completion waits for those of other calls.
        """
        short = scorer.removeprefix("scorers/")
        super().__init__(name or short, connect=connect, timeout_seconds=timeout_seconds, linger_seconds=linger_seconds)
        self._scorer, self._metric, self._targets = scorer, metric, targets
        self._parameters, self._details = dict(parameters or {}), dict(details or {})
        self._scale, self._missing = scale, missing
        self._is_metric_known = self._is_metric_absent = False

    def _items(
        self, prompts: Sequence[Completion], completions: Sequence[Completion], columns: Mapping[str, Any]
    ) -> list[dict[str, object] | None]:
        for column in [*([self._targets] if self._targets else []), *self._details.values()]:
            if column not in columns:
                raise ValueError(f"the data set has no column {column!r}, which the reward {self.__name__!r} needs")
        items: list[dict[str, object] | None] = []
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            item: dict[str, object] = {"text": text_of(completion), "prompt": prompt_text(prompt)}
            if self._targets:
                told = columns[self._targets][index]
                targets = [told] if not isinstance(told, list | tuple) else list(told)
                if targets and all(each is None for each in targets):
                    items.append(None)
                    continue
                item["targets"] = [str(each) for each in targets if each is not None]
            if self._details:
                item["details"] = {name: columns[column][index] for name, column in self._details.items()}
            items.append(item)
        return items

    def _ask(
        self, fleet: Fleet, items: list[dict[str, object]], timeout_seconds: float
    ) -> Sequence[Score | EvalFleetError]:
        return fleet.scoring.score_batch(
            items, scorer=self._scorer, parameters=self._parameters, timeout_seconds=timeout_seconds
        )

    def _check(self, outcomes: Sequence[Score | EvalFleetError]) -> None:
        """Raise, as long as the metric has never been there, that it is not one of the scorer's.

        Raises:
            ValueError: the scorer has other metrics, or several and none is named.
        """
        super()._check(outcomes)
        scores = [each for each in outcomes if not isinstance(each, EvalFleetError) and each.metrics]
        absent = [each for each in scores if self._value(each) is None]
        if scores and not self._is_metric_known:
            if len(absent) == len(scores):
                names = ", ".join(scores[0].metrics)
                raise ValueError(f"{self._scorer} has the metrics {names}; say which is the reward")
            self._is_metric_known = True
        if absent and not self._is_metric_absent:
            self._is_metric_absent = True
            _log.warning("%s: a score lacks the metric; its reward is missing", self.__name__)

    def _reward(self, outcome: Score | EvalFleetError) -> float | None:
        value = None if isinstance(outcome, EvalFleetError) else self._value(outcome)
        return self._missing if value is None else self._scale * value

    def _value(self, score: Score) -> float | None:
        names = list(score.metrics)
        metric = names[0] if self._metric is None and len(names) == 1 else self._metric
        return None if metric is None else score.metrics.get(metric)
