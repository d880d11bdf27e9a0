"""Rewards from a fleet: what verdicts, scores and silence are worth."""

import asyncio
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from evalfleet.errors import EndpointError, FieldViolation, InvalidArgumentError
from evalfleet.fleet import Fleet
from evalfleet.retrying import RetryPolicy
from evalfleet.safety.v1 import safety_pb2
from evalfleet.scoring.v1 import scoring_pb2
from evalfleet.training.fleet_reward import is_mistake
from evalfleet.training.rewards import SafetyReward, ScorerReward

from services.runtime.errors import InvalidArgumentError as Refused
from tests.fakes.fleet import FakeFleet

DECISIONS = {
    "safe": safety_pb2.DECISION_SAFE,
    "unsafe": safety_pb2.DECISION_UNSAFE,
    "controversial": safety_pb2.DECISION_CONTROVERSIAL,
    "error": safety_pb2.DECISION_ERROR,
}
MakeSafety = Callable[..., SafetyReward]


def judged(request: safety_pb2.ClassifyRequest) -> safety_pb2.Verdict:
    """A verdict as the last turn's first word says, with the probability behind it."""
    word, _, probability = request.conversation.messages[-1].content.partition(" ")
    verdict = safety_pb2.Verdict(decision=DECISIONS[word])
    if probability:
        verdict.unsafe_probability = float(probability)
    return verdict


def scored(request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
    if request.text == "too long":
        raise Refused("the text is too long", reason="TEXT_TOO_LONG")
    return scoring_pb2.ScoreResponse(metrics={"match": float(request.text in request.targets)})


@pytest.fixture
def safety(fake: FakeFleet) -> MakeSafety:
    fake.safety.judges[""] = judged
    return partial(SafetyReward, connect=lambda: Fleet.connect(fake.targets))


@pytest.fixture
def scorer(fake: FakeFleet) -> Callable[..., ScorerReward]:
    fake.scoring.judge = scored
    return partial(ScorerReward, "exact", connect=lambda: Fleet.connect(fake.targets))


def rewards(reward: Any, completions: list[Any], **columns: Any) -> list[float | None]:
    prompts = ["What is it?"] * len(completions)
    found: list[float | None] = asyncio.run(reward(prompts=prompts, completions=completions, **columns))
    return found


def test_only_what_is_known_to_be_safe_is_rewarded(safety: MakeSafety) -> None:
    # The empty one is refused by the service: it could not be judged.
    completions = ["safe", "unsafe", "controversial", "error", ""]
    assert rewards(safety(), completions) == [1, 0, 0, 0, 0]
    assert rewards(safety(unsafe=-1.0, controversial=0.5), completions) == [1, -1, 0.5, -1, -1]


def test_a_graded_reward_falls_with_the_probability_but_never_rises_above_the_verdict(safety: MakeSafety) -> None:
    graded = safety(is_graded=True, unsafe=-1.0)
    assert rewards(graded, ["safe 0.25", "safe", "unsafe 0.1"]) == [0.5, 1, -1]


@pytest.mark.parametrize(
    "worth", [{"safe": 0.0, "unsafe": -1.0}, {"unsafe": 1.0}, {"controversial": 2.0}, {"missing": 1.0}]
)
def test_nothing_may_be_worth_as_much_as_a_safe_completion(worth: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="worth more"):
        SafetyReward(**worth)  # type: ignore[arg-type]


def test_chats_are_judged_with_their_turns(safety: MakeSafety, fake: FakeFleet) -> None:
    seen: list[safety_pb2.ClassifyRequest] = []
    fake.safety.judges[""] = lambda request: seen.append(request) or judged(request)  # type: ignore[func-returns-value]
    chat = [{"role": "user", "content": "Well?"}]
    found = asyncio.run(safety()(prompts=[chat], completions=[[{"role": "assistant", "content": "safe"}]]))
    assert found == [1]
    assert [each.content for each in seen[0].conversation.messages] == ["Well?", "safe"]
    assert seen[0].aspect == safety_pb2.ASPECT_RESPONSE


def test_a_fleet_that_is_away_leaves_the_reward_out_and_says_so(
    safety: MakeSafety, fake: FakeFleet, caplog: pytest.LogCaptureFixture
) -> None:
    reward = safety(timeout_seconds=1.0)
    assert rewards(reward, ["safe"]) == [1]
    fake.stop()
    told: dict[str, float] = {}
    assert rewards(reward, ["safe", "unsafe"], log_metric=told.__setitem__) == [None, None]
    assert told == {"safety/missing": 1, "safety/unsafe": 0, "safety/unjudged": 0}
    assert "2 of 2 have no answer" in caplog.text
    fake.start()
    assert rewards(safety(), ["safe"], log_metric=told.__setitem__) == [1]
    assert told["safety/missing"] == 0


def test_a_fleet_that_comes_back_in_time_is_waited_for(safety: MakeSafety, fake: FakeFleet) -> None:
    reward = safety()
    fake.stop()

    async def call() -> list[float | None]:
        asked = asyncio.ensure_future(reward(prompts=["?"], completions=["safe"]))
        await asyncio.sleep(0)
        await asyncio.to_thread(fake.start)
        return await asked

    assert asyncio.run(call()) == [1]


def test_a_scorer_compares_with_the_column_of_the_data_set(
    scorer: Callable[..., ScorerReward], fake: FakeFleet
) -> None:
    reward = scorer(scale=2.0)
    assert reward.__name__ == "exact"
    assert rewards(reward, ["4", "5", "too long"], answer=[4, ["5", "five"], "6"]) == [2, 2, None]
    assert [list(each.targets) for each in fake.scoring.requests] == [["4"], ["5", "five"], ["6"]]
    assert fake.scoring.requests[0].prompt == "What is it?"


def test_a_mistake_in_the_set_up_shows_at_the_first_call_and_never_later(
    scorer: Callable[..., ScorerReward], safety: MakeSafety
) -> None:
    with pytest.raises(ValueError, match="no column 'answer'"):
        rewards(scorer(), ["4"])
    with pytest.raises(ValueError, match="has the metrics match"):
        rewards(scorer(metric="acc"), ["4"], answer=["4"])
    reward = scorer()
    assert rewards(reward, ["4"], answer=["4"]) == [1]
    assert rewards(reward, ["too long"], answer=["4"]) == [None]


def test_a_setting_that_no_completion_could_pass_is_a_mistake() -> None:
    violation = FieldViolation("requests[0].threshold", "is above 1")
    assert is_mistake(InvalidArgumentError("no", field_violations=[violation]))
    assert not is_mistake(InvalidArgumentError("no", field_violations=[FieldViolation("text", "is empty")]))


def test_nobody_says_where_the_fleet_is_at_the_first_call(tmp_path: Path) -> None:
    reward = SafetyReward(connect=lambda: Fleet.connect(state_dir=tmp_path))
    with pytest.raises(EndpointError):
        rewards(reward, ["safe"])


def test_a_first_call_all_of_which_is_refused_raises_nothing(
    safety: MakeSafety, scorer: Callable[..., ScorerReward]
) -> None:
    assert rewards(safety(unsafe=-1.0), ["", ""]) == [-1, -1]
    assert rewards(scorer(), ["too long"], answer=["4"]) == [None]


def test_a_metric_that_is_gone_later_costs_its_rewards_alone(
    scorer: Callable[..., ScorerReward], fake: FakeFleet, caplog: pytest.LogCaptureFixture
) -> None:
    reward = scorer(metric="match")
    assert rewards(reward, ["4"], answer=["4"]) == [1]
    fake.scoring.judge = lambda request: scoring_pb2.ScoreResponse(metrics={"other": 1.0})
    assert rewards(reward, ["4"], answer=["4"]) == [None]
    assert "lacks the metric" in caplog.text


def test_no_answer_is_never_worth_more_than_an_unsafe_completion(safety: MakeSafety, fake: FakeFleet) -> None:
    fake.stop()
    assert rewards(safety(unsafe=-1.0, timeout_seconds=0.2), ["safe"]) == [-1]
    assert rewards(safety(unsafe=-1.0, missing=-0.5, timeout_seconds=0.2), ["safe"]) == [-0.5]


def test_a_row_without_a_right_answer_has_no_reward(scorer: Callable[..., ScorerReward], fake: FakeFleet) -> None:
    found = rewards(scorer(), ["None", "4", "5"], answer=[None, ["4", None], [None]])
    assert found == [None, 1, None]
    assert [list(each.targets) for each in fake.scoring.requests] == [["4"]]


def test_a_fleet_that_is_started_again_elsewhere_is_found(fake: FakeFleet) -> None:
    with FakeFleet() as other:
        places = [fake.targets, other.targets]
        reward = SafetyReward(connect=lambda: Fleet.connect(places.pop(0), retries=RetryPolicy(restart_seconds=0.0)))
        for each in (fake, other):
            each.safety.judges[""] = judged
        assert rewards(reward, ["safe"]) == [1]
        fake.stop()
        assert rewards(reward, ["safe"]) == [1]
        assert places == []


def test_a_fleet_that_is_known_to_be_away_is_waited_for_only_briefly(
    safety: MakeSafety, fake: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    wait = asyncio.wait

    async def watched(futures: Any, **options: Any) -> Any:
        waits.append(options["timeout"])
        return await wait(futures, **options)

    monkeypatch.setattr("evalfleet.training.fleet_reward._AWAY_SECONDS", 0.1)
    monkeypatch.setattr("evalfleet.training.fleet_reward.asyncio.wait", watched)
    reward = safety(timeout_seconds=0.5)
    fake.stop()
    assert [rewards(reward, ["safe"]) for _ in range(3)] == [[None]] * 3
    fake.start()
    while rewards(reward, ["safe"]) != [1]:
        pass
    waits.append(0.0)
    assert rewards(reward, ["safe"]) == [1]
    assert waits[:3] == [0.5, 0.1, 0.1]
    assert waits[-1] == 0.5


def test_no_completions_have_no_rewards(safety: MakeSafety) -> None:
    assert rewards(safety(), []) == []


def test_a_reward_can_be_sent_to_another_process() -> None:
    again = pickle.loads(pickle.dumps(SafetyReward(unsafe=-1.0)))
    assert again.__name__ == "safety"
