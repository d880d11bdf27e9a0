"""A classifier in memory: what it answers is up to the test."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from services.runtime.usage import Usage
from services.safety.guard import LabelledText
from services.safety.guard_file import GuardFile
from services.safety.judgement import Aspect, GuardDescription, GuardReference

LABELS = ("unsafe", "violence", "insult", "novel")
Answer = Callable[[Sequence[str]], Sequence[LabelledText] | Awaitable[Sequence[LabelledText]]]


class FakeClassifier:
    """Obeys the ``Classifier`` protocol.

    By default a text's probability of "unsafe" is its length over 1000, capped at 1, and all others are 0.
    """

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.ready = True
        self.requests: list[tuple[str, ...]] = []
        self.timeouts: list[float] = []

    async def is_ready(self) -> bool:
        """Return what the test says."""
        return self.ready

    async def classify(self, texts: Sequence[str], *, timeout_seconds: float) -> Sequence[LabelledText]:
        """Return what the test says."""
        self.requests.append(tuple(texts))
        self.timeouts.append(timeout_seconds)
        if self.answer is None:
            return [answer(min(1.0, len(text) / 1000)) for text in texts]
        given = self.answer(texts)
        return await given if isinstance(given, Awaitable) else given


def answer(
    *probabilities: float, num_tokens: int = 9, truncated: bool = False, unknown_share: float = 0.0
) -> LabelledText:
    """Build one answer; missing probabilities of the four labels are 0."""
    filled = [*probabilities, *[0.0] * (len(LABELS) - len(probabilities))]
    return LabelledText(filled, num_tokens, truncated, usage=cost_of(num_tokens), unknown_share=unknown_share)


def cost_of(num_tokens: int) -> Usage:
    """What reading so many tokens costs: a millisecond each."""
    return Usage(prompt_tokens=num_tokens, computed_prompt_tokens=num_tokens, engine_seconds=num_tokens / 1000)


def in_windows(*windows: LabelledText) -> LabelledText:
    """Build the answer for a text that was read in several windows."""
    return replace(windows[0], later=windows[1:])


def guard_file(**changes: object) -> GuardFile:
    """Build a guard file whose taxonomy has two of the three hazard labels."""
    content: dict[str, object] = {
        "name": "fake",
        "description": "A guard for tests.",
        "aspects": ["prompt", "response"],
        "special_tokens": 2,
        "threshold": 0.5,
        "taxonomy": "tests",
        "taxonomy_version": "1",
        "categories": {"violence": {"title": "Violence", "ailuminate": "vcr"}, "insult": {"title": "Insults"}},
    }
    return GuardFile.model_validate({**content, **changes})


def description(name: str = "fake", aspects: tuple[Aspect, ...] = (Aspect.PROMPT, Aspect.RESPONSE)) -> GuardDescription:
    """Describe a fake guard."""
    file = guard_file()
    return GuardDescription(
        reference=GuardReference(f"guards/{name}", "w" * 64, "t" * 64, "c" * 64, "fake", "float32"),
        description="A guard for tests.",
        aspects=aspects,
        categories=tuple(file.category(code) for code in file.categories),
        default_threshold=0.5,
        max_tokens=128,
    )


def write_guard_yaml(folder: Path, text: str) -> Path:
    """Write a guard.yaml."""
    file = folder / "guard.yaml"
    file.write_text(text, encoding="utf-8")
    return file
