"""The guard on a fake classifier: whatever goes wrong, nothing is called safe."""

import asyncio
import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.deadlines import bind_deadline
from services.runtime.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    FleetError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from services.runtime.usage import usage_of
from services.safety.classifier_guard import ClassifierGuard
from services.safety.errors import UnusableAnswerError
from services.safety.guard import LabelledText
from services.safety.guard_file import MOST_UNKNOWN, LaterWindows
from services.safety.judgement import Aspect, Decision, JudgedTurn, Role, Turn, Verdict
from services.safety.reading import LabelReader
from tests.fakes.classifier import LABELS, Answer, FakeClassifier, answer, cost_of, description, guard_file, in_windows


def guard(classifier: FakeClassifier, timeout_seconds: float = 30, **bar: float) -> ClassifierGuard:
    reader = LabelReader(LABELS, guard_file())
    return ClassifierGuard(
        description(), classifier, reader, timeout_seconds=timeout_seconds, later_windows=LaterWindows(**bar)
    )


def turns(*texts: str, threshold: float | None = None) -> list[JudgedTurn]:
    return [JudgedTurn([Turn(Role.USER, text)], 0, Aspect.PROMPT, threshold) for text in texts]


async def judge(given_answer: Answer, *texts: str) -> list[Verdict]:
    return await guard(FakeClassifier(given_answer)).judge(turns(*texts))


def refuses(error: BaseException) -> Answer:
    def given_answer(texts: Sequence[str]) -> Sequence[LabelledText]:
        raise error

    return given_answer


async def test_below_the_threshold_is_safe_and_at_it_unsafe() -> None:
    probabilities = {"low": 0.49, "at": 0.5, "high": 0.51}
    verdicts = await judge(lambda texts: [answer(0.1, probabilities[text]) for text in texts], *probabilities)
    assert [verdict.decision for verdict in verdicts] == [Decision.SAFE, Decision.UNSAFE, Decision.UNSAFE]
    assert [len(verdict.categories) for verdict in verdicts] == [0, 1, 1]
    assert all(verdict.threshold == 0.5 and not verdict.unmapped for verdict in verdicts)


async def test_the_callers_threshold_goes_first() -> None:
    classifier = FakeClassifier(lambda texts: [answer(0.4) for _ in texts])
    [strict] = await guard(classifier).judge(turns("x", threshold=0.4))
    [loose] = await guard(classifier).judge(turns("x", threshold=1.0))
    assert (strict.decision, strict.threshold) == (Decision.UNSAFE, 0.4)
    assert (loose.decision, loose.threshold) == (Decision.SAFE, 1.0)


async def test_an_unmapped_label_is_unsafe_and_marked() -> None:
    [verdict] = await judge(lambda texts: [answer(0.1, 0.0, 0.0, 0.9)], "x")
    assert verdict.decision is Decision.UNSAFE
    assert verdict.unmapped
    assert verdict.categories[0].category.taxonomy == ""


async def test_a_cut_text_is_marked() -> None:
    [verdict] = await judge(lambda texts: [answer(0.1, truncated=True)], "x")
    assert verdict.truncated


async def test_the_worst_window_decides() -> None:
    calm = [answer(0.1, 0.2, 0.3) for _ in range(5)]
    said = {"calm": in_windows(*calm), "hazard at the end": in_windows(*calm, answer(0.1, 0.9)), "short": answer(0.1)}
    harmless, hazardous, short = await judge(lambda texts: [said[text] for text in texts], *said)
    assert (harmless.decision, harmless.unsafe_probability, harmless.windows) == (Decision.SAFE, 0.3, 5)
    assert (hazardous.decision, hazardous.unsafe_probability, hazardous.windows) == (Decision.UNSAFE, 0.9, 6)
    assert [(each.category.code, each.probability) for each in hazardous.categories] == [("violence", 0.9)]
    assert [each.probability for each in hazardous.all_scores][:2] == [0.9, 0.3]
    assert short.windows == 1


async def test_a_window_that_cannot_be_judged_is_an_error_unless_the_others_are_hazardous() -> None:
    odd = answer(math.nan)
    said = {"odd": in_windows(answer(0.1), odd, answer(0.1)), "both": in_windows(odd, answer(0.1), answer(0.9))}
    error, hazard = await judge(lambda texts: [said[text] for text in texts], *said)
    assert (error.decision, error.error_reason) == (Decision.ERROR, "PROBABILITY_NOT_FINITE")
    assert error.unsafe_probability is None
    assert (hazard.decision, hazard.error_reason) == (Decision.UNSAFE, "")


async def test_windows_behind_the_first_have_to_exceed_a_higher_bar() -> None:
    said = {
        "first": in_windows(answer(0.1, 0.6), answer(0.1)),
        "hint": in_windows(answer(0.1), answer(0.1), answer(0.1, 0.7)),
        "hazard": in_windows(answer(0.1), answer(0.1, 36 / 37), answer(0.1)),
        "certainty": in_windows(answer(0.1), answer(0.1, 1.0)),
    }
    classifier = FakeClassifier(lambda texts: [said[text] for text in texts])
    judged = await guard(classifier, margin=math.log(4), weight=0.5).judge(turns(*said))
    assert [each.decision for each in judged] == [Decision.UNSAFE, Decision.SAFE, Decision.UNSAFE, Decision.UNSAFE]
    found = [each.unsafe_probability for each in judged]
    # Odds of 7 to 3 become 7 to 12; 36 to 1 become 9, whose root is 3.
    assert found == pytest.approx([0.6, 7 / 19, 0.75, 1.0])
    assert [each.categories[0].probability for each in judged if each.categories] == pytest.approx([0.6, 0.9, 1.0])
    # A policy's own threshold for a hazard may be any: only the margin lowers what it is compared with.
    assert [each.all_scores[0].probability for each in judged] == pytest.approx([0.6, 7 / 19, 0.9, 1.0])


async def test_what_is_clearly_hazardous_behind_the_first_window_is_unsafe_at_any_threshold() -> None:
    said = in_windows(answer(0.1), answer(0.1, 0.99999))
    strict = guard(FakeClassifier(lambda texts: [said]), margin=2.5, weight=0.1)
    for threshold in (1e-6, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999):
        [verdict] = await strict.judge(turns("x", threshold=threshold))
        assert (verdict.decision, verdict.categories[0].category.code) == (Decision.UNSAFE, "violence")
        assert (verdict.unsafe_probability or 0.0) >= threshold


async def test_a_higher_bar_makes_no_window_judged_that_was_not() -> None:
    odd = in_windows(answer(0.1), answer(math.nan), answer(0.1))
    [verdict] = await guard(FakeClassifier(lambda texts: [odd]), margin=6.0).judge(turns("x"))
    assert (verdict.decision, verdict.error_reason) == (Decision.ERROR, "PROBABILITY_NOT_FINITE")


async def test_a_text_longer_than_all_windows_is_marked() -> None:
    [verdict] = await judge(lambda texts: [in_windows(answer(0.1, truncated=True), answer(0.1))], "x")
    assert (verdict.decision, verdict.truncated) == (Decision.SAFE, True)


async def test_what_the_vocabulary_lacks_is_not_called_safe() -> None:
    said = {
        "read": answer(0.1, unknown_share=MOST_UNKNOWN),
        "unread": answer(0.1, unknown_share=MOST_UNKNOWN + 0.01),
        "no number": answer(0.1, unknown_share=math.nan),
        "later": in_windows(answer(0.1), answer(0.1), answer(0.1, unknown_share=1.0)),
        "hazard": answer(0.9, unknown_share=1.0),
        "hazard elsewhere": in_windows(answer(0.1, unknown_share=1.0), answer(0.1, 0.9)),
    }
    read, *unread, hazard, elsewhere = await judge(lambda texts: [said[text] for text in texts], *said)
    assert (read.decision, read.unsafe_probability) == (Decision.SAFE, 0.1)
    for each in unread:
        assert (each.decision, each.error_reason) == (Decision.ERROR, "TEXT_UNFAMILIAR")
        assert each.unsafe_probability is None
    for each in (hazard, elsewhere):
        assert (each.decision, each.unjudged_reason) == (Decision.UNSAFE, "TEXT_UNFAMILIAR")


async def test_a_guard_says_how_much_may_be_unknown() -> None:
    classifier = FakeClassifier(lambda texts: [answer(0.1, unknown_share=0.1) for _ in texts])
    reader = LabelReader(LABELS, guard_file())
    strict = ClassifierGuard(description(), classifier, reader, timeout_seconds=30, most_unknown=0.05)
    [verdict] = await strict.judge(turns("x"))
    assert (verdict.decision, verdict.error_reason) == (Decision.ERROR, "TEXT_UNFAMILIAR")


async def test_only_the_judged_turn_is_read() -> None:
    classifier = FakeClassifier()
    conversation = [Turn(Role.USER, "first"), Turn(Role.ASSISTANT, "second"), Turn(Role.USER, "third")]
    await guard(classifier).judge([JudgedTurn(conversation, 1, Aspect.RESPONSE)])
    assert classifier.requests == [("second",)]


async def test_a_batch_is_one_request_and_equals_single_requests() -> None:
    texts = [f"{'a' * number}" for number in range(1, 257)]
    classifier = FakeClassifier()
    together = await guard(classifier).judge(turns(*texts))
    assert len(classifier.requests) == 1
    single = [(await guard(FakeClassifier()).judge(turns(text)))[0] for text in texts]
    assert together == single


async def test_long_texts_of_a_batch_take_no_time_from_the_others() -> None:
    long, longer, short = "a" * 50_000, "b" * 60_000, ["c" * number for number in range(1, 400)]
    texts = [longer, *short, long]

    def given_answer(asked: Sequence[str]) -> Sequence[LabelledText]:
        if longer in asked:
            raise DeadlineExceededError("late")
        return [answer(len(text) / 100_000) for text in asked]

    classifier = FakeClassifier(given_answer)
    verdicts = await guard(classifier, timeout_seconds=3).judge(turns(*texts))
    assert [len(request) for request in classifier.requests] == [256, 143, 1, 1]
    assert classifier.requests[0] == tuple(short[:256])
    assert classifier.timeouts == [3] * 4
    assert [each.error_reason for each in verdicts] == ["GUARD_TIMEOUT"] + [""] * 400
    assert [each.unsafe_probability for each in verdicts[1:]] == [len(text) / 100_000 for text in texts[1:]]


BROKEN: dict[str, Callable[[Sequence[str]], Sequence[LabelledText]]] = {
    "nan": lambda texts: [answer(math.nan) for _ in texts],
    "infinity": lambda texts: [answer(math.inf) for _ in texts],
    "minus infinity": lambda texts: [answer(0.1, -math.inf) for _ in texts],
    "above one": lambda texts: [answer(0.1, 1.5) for _ in texts],
    "below zero": lambda texts: [answer(-0.5) for _ in texts],
    "too few labels": lambda texts: [LabelledText([0.1], 9, False) for _ in texts],
    "too many labels": lambda texts: [LabelledText([0.1] * 9, 9, False) for _ in texts],
    "no labels": lambda texts: [LabelledText([], 9, False) for _ in texts],
    "no rows": lambda texts: [],
    "too few rows": lambda texts: [answer(0.1)] * (len(texts) - 1),
    "too many rows": lambda texts: [answer(0.1)] * (len(texts) + 1),
    "nothing read": lambda texts: [answer(0.1, num_tokens=2) for _ in texts],
    "unusable": refuses(UnusableAnswerError("WRONG_ANSWER_SHAPE")),  # type: ignore[dict-item]
    "broken weights": refuses(FailedPreconditionError("nan", reason="NONFINITE_LOGITS")),  # type: ignore[dict-item]
    "half an answer": refuses(InternalError("x", reason="INFERENCE_ANSWER_INCOMPLETE")),  # type: ignore[dict-item]
    "engine failure": refuses(InternalError("x", reason="INFERENCE_FAILED")),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("name", BROKEN)
async def test_nonsense_is_an_error_verdict_with_a_reason(name: str, count: int) -> None:
    verdicts = await judge(BROKEN[name], *["x"] * count)
    assert len(verdicts) == count
    for verdict in verdicts:
        assert verdict.decision is Decision.ERROR
        assert verdict.error_reason.isupper()
        assert verdict.unsafe_probability is None
        assert verdict.categories == ()


async def test_one_text_that_breaks_the_engine_does_not_take_others_with_it() -> None:
    def breaks_on_poison(texts: Sequence[str]) -> Sequence[LabelledText]:
        if "poison" in texts:
            raise FailedPreconditionError("not a number", reason="NONFINITE_LOGITS")
        return [answer(len(text) / 100) for text in texts]

    verdicts = await judge(breaks_on_poison, "a", "bb", "poison", "dddd", "e" * 60)
    assert [verdict.error_reason for verdict in verdicts] == ["", "", "NONFINITE_LOGITS", "", ""]
    assert [verdict.unsafe_probability for verdict in verdicts] == [0.01, 0.02, None, 0.04, 0.6]


async def test_a_guard_that_takes_too_long_is_an_error_verdict() -> None:
    verdicts = await judge(refuses(DeadlineExceededError("late")), "a", "b")
    assert [(verdict.decision, verdict.error_reason) for verdict in verdicts] == [(Decision.ERROR, "GUARD_TIMEOUT")] * 2


async def test_the_callers_own_deadline_fails_the_call() -> None:
    classifier = FakeClassifier(refuses(DeadlineExceededError("late")))
    with bind_deadline(500), pytest.raises(DeadlineExceededError):
        await guard(classifier, timeout_seconds=3000).judge(turns("a"))
    assert classifier.timeouts[0] < 500


async def test_a_request_gets_no_more_time_than_the_guard_is_given() -> None:
    classifier = FakeClassifier()
    await guard(classifier, timeout_seconds=3).judge(turns("a"))
    assert classifier.timeouts == [3]


@pytest.mark.parametrize(
    "error",
    [
        UnavailableError("away", reason="GUARD_UNAVAILABLE"),
        ResourceExhaustedError("full"),
        NotFoundError("gone", reason="MODEL_NOT_LOADED"),
    ],
)
async def test_a_guard_that_is_away_fails_the_call(error: FleetError) -> None:
    with pytest.raises(type(error)):
        await judge(refuses(error), "a", "b")


@pytest.mark.parametrize("dear_characters", [10, 70_000], ids=["half of a request", "a request before"])
async def test_what_was_spent_before_a_guard_went_away_is_told(dear_characters: int) -> None:
    cheap, dear = "a" * 10, "b" * dear_characters

    def given_answer(asked: Sequence[str]) -> Sequence[LabelledText]:
        if len(asked) == 2:
            raise InternalError("x", reason="INFERENCE_FAILED")
        if dear in asked:
            raise UnavailableError("away", reason="GUARD_UNAVAILABLE")
        return [in_windows(answer(0.1, num_tokens=9), answer(0.1, num_tokens=4)) for _ in asked]

    with pytest.raises(UnavailableError) as caught:
        await judge(given_answer, cheap, dear)
    assert usage_of(caught.value) == cost_of(9) + cost_of(4)


async def test_a_cancelled_call_stays_cancelled() -> None:
    with pytest.raises(asyncio.CancelledError):
        await judge(refuses(asyncio.CancelledError()), "a")


@given(st.lists(st.lists(st.floats(width=32), min_size=3, max_size=5), min_size=1, max_size=4), st.data())
async def test_safe_needs_a_whole_row_of_probabilities_below_the_threshold(
    rows: list[list[float]], data: st.DataObject
) -> None:
    tokens = data.draw(st.lists(st.integers(0, 9), min_size=len(rows), max_size=len(rows)))
    answers = [LabelledText(row, count, False) for row, count in zip(rows, tokens, strict=True)]
    texts = [str(index) for index in range(len(rows))]
    verdicts = await judge(lambda asked: [answers[int(text)] for text in asked], *texts)
    for row, count, verdict in zip(rows, tokens, verdicts, strict=True):
        if verdict.decision is Decision.SAFE:
            assert count > 2
            assert len(row) == len(LABELS)
            assert all(-1e-6 <= value < 0.5 for value in row)
