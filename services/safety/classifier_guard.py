"""A guard that is a sequence classifier: it reads the judged turn's content and nothing else."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from services.runtime.deadlines import child_timeout
from services.runtime.errors import DeadlineExceededError, FleetError
from services.runtime.off_loop import off_loop
from services.runtime.usage import Meter, usage_of, with_usage
from services.safety.combining import worst
from services.safety.errors import CALL_FAILURES, UnusableAnswerError
from services.safety.guard import Classifier, LabelledText
from services.safety.guard_file import MOST_UNKNOWN, LaterWindows
from services.safety.judgement import Decision, GuardDescription, JudgedTurn, Verdict
from services.safety.reading import LabelReader, is_unmapped
from services.safety.scripts import UNFAMILIAR_REASON, ReadScripts

TEMPLATE: Final = "judged-turn-content/5"
"""How a conversation becomes the classifier's input: the judged turn's content as it is, a long one in windows.

Of these, the first is as long as the classifier reads; shorter ones read the whole text once more."""
_AS_THE_FIRST: Final = LaterWindows()
_MOST_TEXTS: Final = 256
"""Most texts of one request; Triton takes no more."""
_MOST_CHARACTERS: Final = 65_536
"""Most characters of one request with several texts: some 64 pages, which take a small classifier seconds."""


class ClassifierGuard:
    """Implements ``Guard`` on a ``Classifier``.

    Args:
        about: what the guard is.
        classifier: gives probabilities.
        reader: says what they mean.
        timeout_seconds: longest time of one request to the classifier.
        later_windows: how what is found in the windows of a long text after the first counts.
        scripts: those that the classifier reads; None for all. A text in others is not SAFE.
        most_unknown: largest share of unknown tokens in a stretch of a text; one with more is not SAFE.
    """

    def __init__(
        self,
        about: GuardDescription,
        classifier: Classifier,
        reader: LabelReader,
        *,
        timeout_seconds: float,
        later_windows: LaterWindows = _AS_THE_FIRST,
        scripts: ReadScripts | None = None,
        most_unknown: float = MOST_UNKNOWN,
    ) -> None:
        self._about = about
        self._classifier = classifier
        self._reader = reader
        self._timeout_seconds = timeout_seconds
        self._later_windows = later_windows
        self._scripts = scripts
        self._most_unknown = most_unknown

    @property
    def about(self) -> GuardDescription:
        """What it is and can do."""
        return self._about

    async def is_ready(self) -> bool:
        """Return whether the classifier takes requests."""
        return await self._classifier.is_ready()

    async def judge(self, turns: Sequence[JudgedTurn]) -> list[Verdict]:
        """Judge turns in one request; if its answer is unusable, in smaller ones, to find the texts at fault.

        More text than a request can answer in its time is several of them, each with that time, the short texts first.
        A text that is longer than what the classifier reads is judged in windows: the worst one decides, where those
        after the first have to exceed a higher bar if the guard has one for them.
        """
        texts = [turn.content for turn in turns]
        read = await self._ask_any(texts)
        verdicts = [self._verdict(turn, answer) for turn, answer in zip(turns, read, strict=True)]
        unfamiliar = await self._unfamiliar(texts)
        return [
            _unread(verdict) if is_unfamiliar else verdict
            for verdict, is_unfamiliar in zip(verdicts, unfamiliar, strict=True)
        ]

    async def _unfamiliar(self, texts: Sequence[str]) -> list[bool]:
        scripts = self._scripts
        if scripts is None:
            return [False] * len(texts)
        return await off_loop(lambda: [scripts.is_unfamiliar(text) for text in texts], characters=sum(map(len, texts)))

    def _verdict(self, turn: JudgedTurn, answer: LabelledText | UnusableAnswerError) -> Verdict:
        later = () if isinstance(answer, UnusableAnswerError) else answer.later
        return worst(
            [self._of_window(turn, answer), *(self._of_window(turn, each, self._later_windows) for each in later)]
        )

    def _of_window(
        self, turn: JudgedTurn, answer: LabelledText | UnusableAnswerError, bar: LaterWindows = _AS_THE_FIRST
    ) -> Verdict:
        verdict = read_verdict(self._about, self._reader, turn, answer, bar)
        is_read = isinstance(answer, UnusableAnswerError) or answer.unknown_share <= self._most_unknown
        return verdict if is_read else _unread(verdict)

    async def _ask_any(self, texts: Sequence[str]) -> list[LabelledText | UnusableAnswerError]:
        answers: dict[int, LabelledText | UnusableAnswerError] = {}
        spent = Meter()
        try:
            for request in _requests(texts):
                answers.update(zip(request, await self._ask([texts[index] for index in request], spent), strict=True))
        except FleetError as error:
            raise with_usage(error, usage_of(error) + spent.usage) from error
        return [answers[index] for index in range(len(texts))]

    async def _ask(self, texts: Sequence[str], spent: Meter) -> list[LabelledText | UnusableAnswerError]:
        budget = child_timeout(self._timeout_seconds)
        try:
            answers = await self._classifier.classify(texts, timeout_seconds=budget)
            for answer in answers:
                spent.add(sum((each.usage for each in answer.later), answer.usage))
            if len(answers) == len(texts):
                return list(answers)
            problem = UnusableAnswerError("WRONG_ANSWER_COUNT")
        except CALL_FAILURES:
            raise
        except (DeadlineExceededError, TimeoutError):
            if budget < self._timeout_seconds:
                raise  # it was the caller's time that ran out
            return [UnusableAnswerError("GUARD_TIMEOUT")] * len(texts)
        except UnusableAnswerError as error:
            problem = error
        except FleetError as error:
            problem = UnusableAnswerError(error.reason)
        if len(texts) == 1:
            return [problem]
        middle = len(texts) // 2
        return [*await self._ask(texts[:middle], spent), *await self._ask(texts[middle:], spent)]


def _unread(verdict: Verdict) -> Verdict:
    """Return what a verdict says of a text that the classifier cannot read: the hazard that it found all the same."""
    if verdict.decision is Decision.ERROR:
        return verdict
    if verdict.decision is Decision.UNSAFE:
        return replace(verdict, unjudged_reason=verdict.unjudged_reason or UNFAMILIAR_REASON)
    return replace(
        verdict, decision=Decision.ERROR, unsafe_probability=None, error_reason=UNFAMILIAR_REASON, all_scores=()
    )


def _requests(texts: Sequence[str]) -> list[list[int]]:
    """Divide texts into requests, as their indices; those with short texts come first."""
    requests: list[list[int]] = []
    room = 0
    for index in sorted(range(len(texts)), key=lambda each: len(texts[each])):
        if not requests or len(requests[-1]) == _MOST_TEXTS or len(texts[index]) > room:
            requests.append([])
            room = _MOST_CHARACTERS
        requests[-1].append(index)
        room -= len(texts[index])
    return [sorted(each) for each in requests]


def read_verdict(
    about: GuardDescription,
    reader: LabelReader,
    turn: JudgedTurn,
    answer: LabelledText | UnusableAnswerError,
    bar: LaterWindows = _AS_THE_FIRST,
) -> Verdict:
    """Return what a classifier's answer for one text, or for a window of it, means; ERROR if it cannot be used.

    Args:
        about: the guard.
        reader: of its answers.
        turn: that it judged.
        answer: on all of the turn's content or a part of it.
        bar: how what it says counts; default: as it is.
    """
    threshold = about.default_threshold if turn.threshold is None else turn.threshold
    assert threshold is not None, "a guard file without a threshold is refused when it is read"
    reference = about.reference
    if isinstance(answer, UnusableAnswerError):
        return Verdict(Decision.ERROR, reference, threshold, error_reason=answer.reason)
    try:
        reading = reader.read(answer).held_to(bar, threshold)
    except UnusableAnswerError as error:
        return Verdict(
            Decision.ERROR,
            reference,
            threshold,
            truncated=answer.truncated,
            error_reason=error.reason,
            usage=answer.usage,
        )
    categories = reading.reached(threshold)
    return Verdict(
        decision=Decision.UNSAFE if reading.unsafe_probability >= threshold else Decision.SAFE,
        guard=reference,
        threshold=threshold,
        unsafe_probability=reading.unsafe_probability,
        categories=categories,
        unmapped=any(is_unmapped(each.category) for each in categories),
        truncated=answer.truncated,
        cached=answer.cached,
        all_scores=reading.scores,
        usage=answer.usage,
    )
