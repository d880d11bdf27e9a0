"""Books what guards' models compute to whoever's call it is for, also where that caller does not wait for a verdict."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from services.inference.contract import Prompt, TemplatePrompt
from services.runtime.spending import Asked, least_tokens
from services.runtime.usage import Usage
from services.safety.guard import Classifier, LabelledText
from services.safety.judgement import NO_USAGE
from services.safety.language_model import GeneratedAnswer, LanguageModel, Likelihoods

Priced: TypeAlias = Callable[[Usage], Usage]
"""Returns a cost with its price."""


class BookedClassifier:
    """Implements ``Classifier`` with the answers of another.

    Args:
        inner: classifies; it remembers nothing, or what is known would be paid for again.
        priced: puts the guard's price on a cost.
        most_tokens: that it reads of one text; None: unknown.
    """

    def __init__(self, inner: Classifier, priced: Priced, *, most_tokens: int | None) -> None:
        self._inner = inner
        self._priced = priced
        self._most_tokens = most_tokens

    async def is_ready(self) -> bool:
        """Return whether it takes requests."""
        return await self._inner.is_ready()

    async def classify(self, texts: Sequence[str], *, timeout_seconds: float) -> Sequence[LabelledText]:
        """Return one answer a text; raises as the other."""
        with Asked(_reading(sum(map(self._least_tokens, texts))), self._priced) as asked:
            answers = await self._inner.classify(texts, timeout_seconds=timeout_seconds)
            asked.cost(sum((window.usage for each in answers for window in (each, *each.later)), NO_USAGE))
        return answers

    def _least_tokens(self, text: str) -> int:
        tokens = least_tokens(len(text))
        return tokens if self._most_tokens is None else min(tokens, self._most_tokens)


class BookedLanguageModel:
    """Implements ``LanguageModel`` with the answers of another; see ``BookedClassifier``."""

    def __init__(self, inner: LanguageModel, priced: Priced) -> None:
        self._inner = inner
        self._priced = priced

    async def is_ready(self) -> bool:
        """Return whether it takes requests."""
        return await self._inner.is_ready()

    async def answer(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        stop: tuple[str, ...],
        keep_special_tokens: bool,
        timeout_seconds: float,
    ) -> GeneratedAnswer:
        """Return the greedy answer to a prompt; raises as the other."""
        with Asked(_reading(least_tokens(_characters(prompt))), self._priced) as asked:
            answer = await self._inner.answer(
                prompt,
                max_tokens=max_tokens,
                stop=stop,
                keep_special_tokens=keep_special_tokens,
                timeout_seconds=timeout_seconds,
            )
            asked.cost(answer.usage)
        return answer

    async def log_likelihoods(
        self, prompt: Prompt, continuations: Sequence[str], *, timeout_seconds: float
    ) -> Likelihoods:
        """Return how likely continuations of a prompt are; raises as the other."""
        # Asked right after the answer to the same prompt, which is then known to the engine.
        with Asked(NO_USAGE, self._priced) as asked:
            found = await self._inner.log_likelihoods(prompt, continuations, timeout_seconds=timeout_seconds)
            asked.cost(found.usage)
        return found


def _reading(tokens: int) -> Usage:
    return Usage(prompt_tokens=tokens, computed_prompt_tokens=tokens)


def _characters(prompt: Prompt) -> int:
    if isinstance(prompt, str):
        return len(prompt)
    messages = prompt.messages if isinstance(prompt, TemplatePrompt) else prompt
    return sum(len(each.content) for each in messages)
