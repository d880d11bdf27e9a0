"""A classifier that remembers what it said of a text."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from services.runtime.cache.entry import CorruptEntryError, decode_entry, encode_entry
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.store import CacheStore, NewEntry
from services.runtime.off_loop import off_loop
from services.runtime.usage import Usage
from services.safety.errors import UnusableAnswerError
from services.safety.guard import Classifier, LabelledText
from services.safety.judgement import GuardReference
from services.safety.reading import LabelReader

_VERSION: Final = "evalfleet/classified-text/4"


class CachedClassifier:
    """Implements ``Classifier`` with a cache before another one.

    Kept are probabilities, not verdicts: thresholds and calibration are applied to them anew each time. Failures and
    unusable answers are not kept, so a guard that could not judge is asked again: the service goes on failing closed.

    Args:
        inner: classifies what is not known.
        guard: which exact guard it is; everything but its calibration is part of each key.
        engine_revision: of the engines' code.
        store: holds the entries.
        metrics: counts lookups and damaged entries.
        reader: of the guard; what it does not accept is not kept.
    """

    def __init__(
        self,
        inner: Classifier,
        guard: GuardReference,
        *,
        engine_revision: str,
        store: CacheStore,
        metrics: CacheMetrics,
        reader: LabelReader,
    ) -> None:
        self._inner = inner
        self._reader = reader
        self._store = store
        self._metrics = metrics
        guard_digests = [guard.weights_digest, guard.template_digest, guard.engine, guard.dtype]
        identity = [_VERSION, *guard_digests, engine_revision]
        self._prefix = hashlib.sha256(json.dumps(identity).encode())
        self._log: Any = structlog.get_logger(__name__)

    async def is_ready(self) -> bool:
        """Return whether the classifier itself takes requests."""
        return await self._inner.is_ready()

    async def classify(self, texts: Sequence[str], *, timeout_seconds: float) -> Sequence[LabelledText]:
        """Return one answer a text; all unknown texts go into one request.

        Raises:
            FleetError: as the inner classifier.
        """
        keys = await off_loop(lambda: [self._key(text) for text in texts], characters=sum(map(len, texts)))
        known = {
            key: answer
            for key, entry in (await self._store.get_many(keys)).items()
            if (answer := self._read(key, entry))
        }
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        self._metrics.lookups.labels("miss").inc(len(missing))
        self._metrics.lookups.labels("hit").inc(len(texts) - len(missing))
        if missing:
            answers = await self._inner.classify(list(missing.values()), timeout_seconds=timeout_seconds)
            if len(answers) != len(missing):
                # Which answer belongs to which text is not known; the guard finds out with smaller requests.
                return answers if len(missing) == len(texts) else ()
            for key, answer in zip(missing, answers, strict=True):
                known[key] = answer
                if self._is_usable(answer):
                    await self._store.put(NewEntry(key, _written(key, answer)))
        return _each_paid_once(keys, known)

    def _is_usable(self, answer: LabelledText) -> bool:
        try:
            for window in (answer, *answer.later):
                self._reader.read(window)
        except UnusableAnswerError:
            return False
        return True

    def _key(self, text: str) -> bytes:
        digest = self._prefix.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.digest()

    def _read(self, key: bytes, entry: bytes) -> LabelledText | None:
        try:
            truncated, windows = json.loads(decode_entry(key, entry))
            first, *later = [
                LabelledText(
                    [float(each) for each in probabilities],
                    int(num_tokens),
                    bool(truncated),
                    cached=True,
                    usage=Usage(prompt_tokens=int(num_tokens)).from_cache,
                    unknown_share=float(unknown_share),
                )
                for probabilities, num_tokens, unknown_share in windows
            ]
            return replace(first, later=tuple(later)) if later else first
        except (CorruptEntryError, ValueError, TypeError) as error:
            self._metrics.corrupt_entries.inc()
            self._log.warning("cache_entry_corrupt", key=key.hex(), problem=str(error))
            return None


def _each_paid_once(keys: Sequence[bytes], known: Mapping[bytes, LabelledText]) -> list[LabelledText]:
    """Return the answers; of equal texts of one request the first has the cost, and the others share its answer."""
    answers: list[LabelledText] = []
    told: set[bytes] = set()
    for key in keys:
        answers.append(known[key].from_cache if key in told else known[key])
        told.add(key)
    return answers


def _written(key: bytes, answer: LabelledText) -> bytes:
    windows = [
        [[float(each) for each in window.probabilities], window.num_tokens, window.unknown_share]
        for window in (answer, *answer.later)
    ]
    return encode_entry(key, json.dumps([answer.truncated, windows], separators=(",", ":")).encode())
