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
from services.runtime.usage import Usage
from services.scoring.judges.judge_model import Decoding, JudgePrompt, ModelIdentity, SampledAnswer

_VERSION: Final = "evalfleet/judge-answer/2"


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
        """SHA-256 over all of it, and over the engines' code; takes no longer for a long text."""
        rest = [asdict(self.judge), asdict(self.decoding), self.words, self.wants_likelihoods]
        content = [_VERSION, engine_revision, self.prompt.digest, self.prompt.format, rest]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).digest()


@dataclass(frozen=True, slots=True)
class KnownVote:
    """An answer, whether it is a verdict or not.

    Attributes:
        answer: as the judge gave it.
        log_likelihoods: how likely each verdict was in its place; () if nobody knows, ``None`` if that was not found
            out: the answer is no verdict, or the judge went away.
    """

    answer: SampledAnswer
    log_likelihoods: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class KnownVotes:
    """All answers to a question, and what they have cost so far."""

    votes: tuple[KnownVote, ...]
    usage: Usage


class KnownAnswers:
    """Keeps answers by the content of the question and the exact judge.

    Kept are answers, not scores: the parser and the values apply anew each time, also to answers that are no verdict,
    which the judge would only give again.

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
        """Keep answers as they were given, with what is known of their likelihoods; never raises."""
        if self._store is None or not question.judge.is_known:
            return
        key = question.key(self._engine_revision)
        content = [[_kept(each) for each in votes], asdict(usage)]
        await self._store.put(NewEntry(key, encode_entry(key, json.dumps(content).encode())))

    def _read(self, question: Question, key: bytes, entry: bytes) -> KnownVotes | None:
        try:
            votes, usage = json.loads(decode_entry(key, entry))
            read = tuple(_known(*each) for each in votes)
            if len(read) != question.decoding.sample_count:
                raise ValueError("another number of answers")
            if any(len(each.log_likelihoods or ()) not in (0, len(question.words)) for each in read):
                raise ValueError("another number of likelihoods")
            return KnownVotes(read, Usage(**usage))
        except (CorruptEntryError, ValueError, TypeError) as error:
            self._metrics.corrupt_entries.inc()
            self._log.warning("cache_entry_corrupt", key=key.hex(), problem=str(error))
            return None


def _kept(vote: KnownVote) -> list[object]:
    likelihoods = None if vote.log_likelihoods is None else list(vote.log_likelihoods)
    kept: list[object] = [vote.answer.text, likelihoods]
    # As entries were before answers that were cut off were kept, too: those stay known.
    return kept if vote.answer.is_complete else [*kept, False]


def _known(text: object, likelihoods: list[float] | None, is_complete: bool = True) -> KnownVote:
    values = None if likelihoods is None else tuple(float(each) for each in likelihoods)
    return KnownVote(SampledAnswer(str(text), bool(is_complete)), values)
