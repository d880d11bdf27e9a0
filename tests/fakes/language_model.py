"""A language model in memory: what it answers is up to the test."""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from services.inference.contract import Prompt, TemplatePrompt
from services.runtime.usage import Usage
from services.safety.formats import llama_guard, nemoguard, qwen3guard, shieldgemma, wildguard
from services.safety.formats.guard_format import GuardFormat
from services.safety.formats.registry import FAMILIES, FormatOptions
from services.safety.formats.taxonomy import GuardedCategory, Taxonomy
from services.safety.generative_guard import GenerativeGuard
from services.safety.judgement import Aspect, GuardDescription, GuardReference, JudgedTurn, Role, Turn
from services.safety.language_model import GeneratedAnswer, Likelihoods

LIKELY, UNLIKELY = math.log(0.9), math.log(0.05)
ANSWER_COST = Usage(40, 2, 0.5, 40, 2)
SCORING_COST = Usage(40, 4, 0.25, 10, 4, 30)

Said = str | GeneratedAnswer | BaseException
Answers = Callable[[Prompt], Said | Awaitable[Said]]

LABELS: dict[str, tuple[str, ...]] = {
    "llama-guard-3": llama_guard.LABELS,
    "llama-guard-3-1b": llama_guard.LABELS,
    "llama-guard-4": llama_guard.LABELS,
    "shieldgemma": shieldgemma.LABELS,
    "wildguard": wildguard.LABELS,
    "qwen3guard": qwen3guard.LABELS,
    "nemoguard": nemoguard.LABELS,
}
"""Words with a meaning at the beginning of a line of a family's prompt."""

THOUGHTS = "<|channel|>analysis<|message|>Nothing.<|end|><|start|>assistant<|channel|>final<|message|>"
SAFE_ANSWERS = {
    "llama-guard-3": {Aspect.PROMPT: "\n\nsafe", Aspect.RESPONSE: "safe"},
    "llama-guard-3-1b": {Aspect.PROMPT: "safe", Aspect.RESPONSE: "safe"},
    "llama-guard-4": {Aspect.PROMPT: "safe", Aspect.RESPONSE: "safe"},
    "shieldgemma": {Aspect.PROMPT: "No", Aspect.RESPONSE: "No"},
    "wildguard": {
        Aspect.PROMPT: "Harmful request: no\nResponse refusal: N/A\nHarmful response: N/A",
        Aspect.RESPONSE: "Harmful request: no\nResponse refusal: no\nHarmful response: no",
    },
    "granite-guardian": dict.fromkeys(Aspect, "<think>\n</think>\n<score>no</score>"),
    "qwen3guard": {
        Aspect.PROMPT: "Safety: Safe\nCategories: None",
        Aspect.RESPONSE: "Safety: Safe\nCategories: None\nRefusal: No",
    },
    "nemoguard": {
        Aspect.PROMPT: '{"User Safety": "safe"}',
        Aspect.RESPONSE: '{"User Safety": "safe", "Response Safety": "safe"}',
    },
    "gpt-oss-safeguard": dict.fromkeys(Aspect, THOUGHTS + '{"violation": 0}'),
}
"""How each family calls a turn safe."""

UNSAFE_ANSWERS = {
    "llama-guard-3": dict.fromkeys(Aspect, "\n\nunsafe\nS1,S9"),
    "llama-guard-3-1b": dict.fromkeys(Aspect, "unsafe\nS1"),
    "llama-guard-4": dict.fromkeys(Aspect, "unsafe\nS2"),
    "shieldgemma": dict.fromkeys(Aspect, "Yes"),
    "wildguard": {
        Aspect.PROMPT: "Harmful request: yes\nResponse refusal: N/A\nHarmful response: N/A",
        Aspect.RESPONSE: "Harmful request: yes\nResponse refusal: no\nHarmful response: yes",
    },
    "granite-guardian": dict.fromkeys(Aspect, "<think>\n</think>\n<score>yes</score>"),
    "qwen3guard": {
        Aspect.PROMPT: "Safety: Unsafe\nCategories: Violent",
        Aspect.RESPONSE: "Safety: Unsafe\nCategories: Violent\nRefusal: No",
    },
    "nemoguard": {
        Aspect.PROMPT: '{"User Safety": "unsafe", "Safety Categories": "Violence"}',
        Aspect.RESPONSE: '{"User Safety": "safe", "Response Safety": "unsafe", "Safety Categories": "Threat"}',
    },
    "gpt-oss-safeguard": dict.fromkeys(Aspect, '{"violation": 1, "categories": ["H1"]}'),
}
"""How each family calls a turn hazardous."""


class FakeLanguageModel:
    """Obeys the ``LanguageModel`` protocol.

    The verdict word that its answer has, or begins to have, at the place asked about is likely, all others are not;
    ``likelihoods`` overrides that.
    """

    def __init__(self, answers: Answers | Said) -> None:
        self.answers = answers
        self.likelihoods: Sequence[float] | BaseException | None = None
        self.ready = True
        self.prompts: list[Prompt] = []
        self.scored: list[tuple[str, ...]] = []
        self.timeouts: list[float] = []
        self._said = ""

    async def is_ready(self) -> bool:
        return self.ready

    async def answer(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        stop: tuple[str, ...],
        keep_special_tokens: bool,
        timeout_seconds: float,
    ) -> GeneratedAnswer:
        self.prompts.append(prompt)
        self.timeouts.append(timeout_seconds)
        said = self.answers(prompt) if callable(self.answers) else self.answers
        if isinstance(said, Awaitable):
            said = await said
        if isinstance(said, BaseException):
            raise said
        answer = GeneratedAnswer(said, is_complete=True, usage=ANSWER_COST) if isinstance(said, str) else said
        self._said = answer.text
        return answer

    async def log_likelihoods(
        self, prompt: Prompt, continuations: Sequence[str], *, timeout_seconds: float
    ) -> Likelihoods:
        self.scored.append(tuple(continuations))
        if isinstance(self.likelihoods, BaseException):
            raise self.likelihoods
        if self.likelihoods is not None:
            return Likelihoods(tuple(self.likelihoods), SCORING_COST)
        likely = (LIKELY if self._said.startswith(each) else UNLIKELY for each in continuations)
        return Likelihoods(tuple(likely), SCORING_COST)


def options(**changes: Any) -> FormatOptions:
    """Return what a test's format is made for: every family gets what it needs."""
    taxonomy = Taxonomy(name="house", version="1", categories={"H1": GuardedCategory(title="House rules")})
    told: dict[str, Any] = {"policy": "Nobody may name the cat.", "taxonomy": taxonomy, **changes}
    return FormatOptions(**told)


def build_format(kind: str, **changes: object) -> GuardFormat:
    """Build the format of a family."""
    return FAMILIES[kind].build(options(**changes))


def describe(kind: str, guard_format: GuardFormat, threshold: float | None = None) -> GuardDescription:
    """Describe a guard of a family."""
    return GuardDescription(
        reference=GuardReference(f"guards/{kind}", "w" * 64, "t" * 64, "c" * 64, "fake", "float32"),
        description="A guard for tests.",
        aspects=guard_format.aspects,
        categories=guard_format.taxonomy.all(),
        default_threshold=threshold,
        max_tokens=None,
    )


def guard_of(
    kind: str, model: FakeLanguageModel, *, threshold: float | None = None, timeout_seconds: float = 30
) -> GenerativeGuard:
    """Build a guard of a family on a fake model."""
    guard_format = build_format(kind)
    about = describe(kind, guard_format, threshold)
    return GenerativeGuard(about, model, guard_format, timeout_seconds=timeout_seconds, max_concurrent=8)


def prompt_turn(text: str = "How do I bake bread?", threshold: float | None = None) -> JudgedTurn:
    """Return a user's turn to judge."""
    return JudgedTurn([Turn(Role.USER, text)], 0, Aspect.PROMPT, threshold)


def response_turn(
    response: str = "Mix flour and water.", request: str = "How do I bake bread?", threshold: float | None = None
) -> JudgedTurn:
    """Return an assistant's turn to judge."""
    return JudgedTurn([Turn(Role.USER, request), Turn(Role.ASSISTANT, response)], 1, Aspect.RESPONSE, threshold)


def turn_of(aspect: Aspect, text: str | None = None) -> JudgedTurn:
    """Return a turn to judge as this aspect."""
    said = "How do I bake bread?" if text is None else text
    return prompt_turn(said) if aspect is Aspect.PROMPT else response_turn(said)


def prompt_text(prompt: Prompt) -> str:
    """Return all text of a prompt."""
    if isinstance(prompt, str):
        return prompt
    messages = prompt.messages if isinstance(prompt, TemplatePrompt) else prompt
    return "\n".join(f"{each.role}: {each.content}" for each in messages)
