"""Remembers what guard models answered, so that a known question costs nothing."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

import structlog

from services.inference.contract import TemplatePrompt
from services.runtime.cache.entry import CorruptEntryError, decode_entry, encode_entry
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.store import CacheStore, NewEntry
from services.runtime.off_loop import off_loop
from services.runtime.usage import Usage
from services.safety.examination import RawAnswer
from services.safety.formats.guard_format import Question
from services.safety.judgement import GuardReference

_VERSION: Final = "evalfleet/guard-answer/2"


class AnswerCache:
    """Keeps answers by the content of the question and the exact guard.

    Kept are answers, not verdicts: thresholds and parsers apply anew each time. What could not be used is not kept, so
    the guard is asked again: the service goes on failing closed.

    Args:
        guard: which exact guard; all but its calibration is part of each key.
        engine_revision: of the engines' code.
        store: holds the entries.
        metrics: counts lookups and damaged entries.
    """

    def __init__(
        self, guard: GuardReference, *, engine_revision: str, store: CacheStore, metrics: CacheMetrics
    ) -> None:
        self._store = store
        self._metrics = metrics
        identity = [_VERSION, guard.weights_digest, guard.template_digest, guard.engine, guard.dtype, engine_revision]
        self._prefix = hashlib.sha256(json.dumps(identity).encode())
        self._log: Any = structlog.get_logger(__name__)

    async def find(self, questions: Sequence[Question]) -> list[RawAnswer | None]:
        """Return the known answers, None for the others; never raises."""
        keys = await off_loop(
            lambda: [self._key(question) for question in questions], characters=sum(map(_characters, questions))
        )
        found = await self._store.get_many(keys)
        known = [self._read(key, found[key]) if key in found else None for key in keys]
        hits = len(known) - known.count(None)
        self._metrics.lookups.labels("hit").inc(hits)
        self._metrics.lookups.labels("miss").inc(len(known) - hits)
        return known

    async def keep(self, question: Question, answer: RawAnswer) -> None:
        """Keep an answer that could be used; never raises."""
        key = await off_loop(lambda: self._key(question), characters=_characters(question))
        tokens = [answer.usage.prompt_tokens, answer.usage.completion_tokens]
        values = [answer.text, answer.is_complete, list(answer.log_likelihoods), tokens]
        await self._store.put(NewEntry(key, encode_entry(key, json.dumps(values).encode())))

    def _key(self, question: Question) -> bytes:
        prompt = question.prompt
        if isinstance(prompt, TemplatePrompt):
            messages = [[each.role, each.content] for each in prompt.messages]
            content: Any = [messages, dict(prompt.variables), prompt.as_parts]
        else:
            content = prompt if isinstance(prompt, str) else [[each.role, each.content] for each in prompt]
        asked = [content, question.max_tokens, question.stop, question.keeps_special_tokens]
        digest = self._prefix.copy()
        digest.update(json.dumps(asked, sort_keys=True).encode())
        return digest.digest()

    def _read(self, key: bytes, entry: bytes) -> RawAnswer | None:
        try:
            # Earlier releases did not count tokens.
            text, is_complete, likelihoods, *counts = json.loads(decode_entry(key, entry))
            [(prompt_tokens, completion_tokens)] = counts or [(0, 0)]
            return RawAnswer(
                str(text),
                bool(is_complete),
                tuple(float(each) for each in likelihoods),
                cached=True,
                usage=Usage(int(prompt_tokens), int(completion_tokens)).from_cache,
            )
        except (CorruptEntryError, ValueError, TypeError) as error:
            self._metrics.corrupt_entries.inc()
            self._log.warning("cache_entry_corrupt", key=key.hex(), problem=str(error))
            return None


def _characters(question: Question) -> int:
    """Return how long the texts of a question are."""
    prompt = question.prompt
    if isinstance(prompt, str):
        return len(prompt)
    messages = prompt.messages if isinstance(prompt, TemplatePrompt) else prompt
    return sum(len(each.content) for each in messages)
