"""Remembers what judges answered, so that a known question costs nothing."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import structlog

from services.runtime.cache.entry import CorruptEntryError, decode_entry, encode_entry
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.store import CacheStore, NewEntry
from services.scoring.judges.judge_model import Decoding, JudgePrompt, ModelIdentity
from services.scoring.usage import Usage

_VERSION: Final = "evalfleet/judge-answer/1"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of an exact judge.

    Attributes:
        judge: the exact model.
        prompt: what it is given.
        decoding: how it answers.
        words: the verdicts, in the rubric's order.
        wants_likelihoods: whether their likelihoods are asked for as well.
    """

    judge: ModelIdentity
    prompt: JudgePrompt
    decoding: Decoding
    words: tuple[str, ...]
    wants_likelihoods: bool

    def key(self, engine_revision: str = "") -> bytes:
        """SHA-256 over all of it, and over the engines' code."""
        content = [_VERSION, engine_revision, asdict(self)]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).digest()


@dataclass(frozen=True, slots=True)
class KnownVote:
    """An answer that could be read: its text, and how likely each verdict was in its place, or () if nobody knows."""

    text: str
    log_likelihoods: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class KnownVotes:
    """All answers to a question, and what they cost when they were computed."""

    votes: tuple[KnownVote, ...]
    usage: Usage


class KnownAnswers:
    """Keeps answers by the content of the question and the exact judge.

    Kept are answers, not scores: the parser and the values apply anew each time. Answers that are no verdict are not
    kept: the judge is asked again, and the generation service's own cache may know that answer.

    Args:
        store: holds the entries; ``None``: nothing is remembered.
        metrics: counts lookups and damaged entries.
        engine_revision: of the engines' code.
    """

    def __init__(self, store: CacheStore | None, metrics: CacheMetrics, *, engine_revision: str) -> None:
        self._store = store
        self._engine_revision = engine_revision
        self._metrics = metrics
        self._log: Any = structlog.get_logger(__name__)

    async def find(self, question: Question) -> KnownVotes | None:
        """Return the known answers; never raises."""
        if self._store is None or not question.judge.is_known:
            return None
        key = question.key(self._engine_revision)
        entry = (await self._store.get_many([key])).get(key)
        known = None if entry is None else self._read(question, key, entry)
        self._metrics.lookups.labels("miss" if known is None else "hit").inc()
        return known

    async def keep(self, question: Question, votes: Sequence[KnownVote], usage: Usage) -> None:
        """Keep answers that could be read; never raises."""
        if self._store is None or not question.judge.is_known:
            return
        key = question.key(self._engine_revision)
        content = [[[each.text, list(each.log_likelihoods)] for each in votes], asdict(usage)]
        await self._store.put(NewEntry(key, encode_entry(key, json.dumps(content).encode())))

    def _read(self, question: Question, key: bytes, entry: bytes) -> KnownVotes | None:
        try:
            votes, usage = json.loads(decode_entry(key, entry))
            read = tuple(KnownVote(str(text), tuple(float(each) for each in values)) for text, values in votes)
            if len(read) != question.decoding.sample_count:
                raise ValueError("another number of answers")
            if any(len(each.log_likelihoods) not in (0, len(question.words)) for each in read):
                raise ValueError("another number of likelihoods")
            return KnownVotes(read, Usage(**usage))
        except (CorruptEntryError, ValueError, TypeError) as error:
            self._metrics.corrupt_entries.inc()
            self._log.warning("cache_entry_corrupt", key=key.hex(), problem=str(error))
            return None
