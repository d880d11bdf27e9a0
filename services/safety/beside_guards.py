"""Builds the guards of the guards file."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from services.inference.client import InferenceClient
from services.inference.host_client import CheckpointHostClient
from services.inference.repository import classifier_entry
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.store import CacheStore
from services.runtime.prices import FREE, PriceTable
from services.safety.answer_cache import AnswerCache
from services.safety.blocklist import read_blocklist
from services.safety.booked_models import BookedClassifier, BookedLanguageModel, Priced
from services.safety.cached_classifier import CachedClassifier
from services.safety.catalogue import COLLECTION
from services.safety.classifier_guard import ClassifierGuard
from services.safety.digests import json_digest
from services.safety.encoder import file_sha256
from services.safety.generative_guard import GenerativeGuard
from services.safety.generative_models import GenerativeModel, generative_model
from services.safety.guard import Classifier, Guard
from services.safety.guard_models import HEAD_FILE, GuardModel, checkpoint_guard, embedded_guard
from services.safety.guards_file import (
    CascadeEntry,
    ClassifierEntry,
    Entry,
    GenerativeEntry,
    KeywordEntry,
    NgramEntry,
    read_guards_file,
)
from services.safety.judgement import GuardReference
from services.safety.keyword_guard import TEMPLATE, KeywordGuard
from services.safety.ngram_guard import ngram_guard
from services.safety.priced_guard import priced
from services.safety.reading import LabelReader
from services.safety.refusal_guard import RefusalGuard
from services.safety.settings import SafetySettings
from services.safety.triton_classifier import TritonClassifier
from services.safety.triton_language_model import GUARD_HOST_MODEL, GuardHost, LoadLimits, TritonLanguageModel
from services.safety.yaml_file import file_error


@dataclass(frozen=True, slots=True)
class KeptAnswers:
    """Where answers of guards are kept.

    Attributes:
        store: holds them.
        metrics: of the cache.
        engine_revision: of the engines' code.
    """

    store: CacheStore
    metrics: CacheMetrics
    engine_revision: str

    def of(self, guard: GuardReference) -> AnswerCache:
        """Return the cache of one guard's answers."""
        return AnswerCache(guard, engine_revision=self.engine_revision, store=self.store, metrics=self.metrics)


class GuardBuilder:
    """Makes guards from entries of a guards file.

    Args:
        file: the guards file.
        settings: of the service.
        client: of the inference host.
        kept: where answers are kept; None for nowhere.
        stack: closes what the guards began.
        prices: what computing costs.
    """

    def __init__(
        self,
        file: Path,
        settings: SafetySettings,
        client: InferenceClient,
        kept: KeptAnswers | None,
        stack: AsyncExitStack,
        prices: PriceTable = FREE,
    ) -> None:
        self._file = file
        self._settings = settings
        self._client = client
        self._kept = kept
        self._stack = stack
        self._prices = prices
        self._host = GuardHost(CheckpointHostClient(client, GUARD_HOST_MODEL))

    async def build(self, *, taken: str) -> list[Guard]:
        """Build the guards of the file that are made of no others, in its order.

        Args:
            taken: resource name of the default guard, which no other may have.

        Raises:
            GuardFileError: the file, or one that it names, cannot be used.
        """
        entries = await asyncio.to_thread(read_guards_file, self._file)
        for index, entry in enumerate(entries):
            if f"{COLLECTION}/{entry.name}" == taken:
                raise file_error(self._file, f"guards[{index}].name: {entry.name!r} is the default guard's name")
        return [await self._guard(entry) for entry in entries if not isinstance(entry, CascadeEntry)]

    async def _guard(self, entry: Entry) -> Guard:
        if isinstance(entry, GenerativeEntry):
            return self._generative(
                await asyncio.to_thread(generative_model, self._file, entry, self._settings.auto_dtype)
            )
        if isinstance(entry, ClassifierEntry):
            return await self._classifier(entry)
        if isinstance(entry, NgramEntry):
            return await asyncio.to_thread(_ngram_guard, entry, self._settings.guard_timeout_seconds)
        if isinstance(entry, KeywordEntry):
            return await asyncio.to_thread(_keyword_guard, entry)
        return RefusalGuard(f"{COLLECTION}/{entry.name}")

    async def _classifier(self, entry: ClassifierEntry) -> Guard:
        model = await asyncio.to_thread(self._classifier_model, entry)
        if model.file.name != entry.name:
            raise file_error(self._file, f"guard {entry.name!r}: is called {model.file.name!r} in its own guard file")
        if entry.description:
            model = replace(model, about=replace(model.about, description=entry.description))
        return classifier_guard(model, self._client, self._settings, self._kept, self._stack, self._prices)

    def _classifier_model(self, entry: ClassifierEntry) -> GuardModel:
        if not (entry.checkpoint / HEAD_FILE).is_file():
            return checkpoint_guard(entry.checkpoint, entry.guard_file, entry.dtype)
        if entry.guard_file is not None:
            raise file_error(self._file, f"guard {entry.name!r}: guard_file: a head is described in its own folder")
        return embedded_guard(self._settings.encoder_path, entry.dtype, folder=entry.checkpoint)

    def _generative(self, model: GenerativeModel) -> Guard:
        settings = self._settings
        limits = LoadLimits(settings.guard_load_timeout_seconds, settings.guard_ready_wait_seconds)
        language_model = TritonLanguageModel(self._client, self._host, model.checkpoint_name, model.arguments, limits)
        self._stack.push_async_callback(language_model.close)
        return GenerativeGuard(
            model.about,
            BookedLanguageModel(language_model, _priced(model.about.reference, self._prices)),
            model.guard_format,
            timeout_seconds=settings.guard_timeout_seconds,
            max_concurrent=settings.guard_max_concurrent_turns,
            cache=self._kept.of(model.about.reference) if self._kept else None,
        )


def classifier_guard(
    model: GuardModel,
    client: InferenceClient,
    settings: SafetySettings,
    kept: KeptAnswers | None,
    stack: AsyncExitStack,
    prices: PriceTable = FREE,
) -> Guard:
    """Return a guard that is a sequence classifier of the inference host; it is closed with ``stack``."""
    classifier = TritonClassifier(
        client,
        model.model_name,
        classifier_entry(model.arguments),
        model.labels,
        load_timeout_seconds=settings.guard_load_timeout_seconds,
        ready_wait_seconds=settings.guard_ready_wait_seconds,
        max_windows=model.file.max_windows,
    )
    stack.push_async_callback(classifier.close)
    most_tokens = model.about.max_tokens * model.file.max_windows if model.about.max_tokens else None
    asked: Classifier = BookedClassifier(classifier, _priced(model.about.reference, prices), most_tokens=most_tokens)
    reader = LabelReader(model.labels, model.file)
    if kept is not None:
        asked = CachedClassifier(
            asked,
            model.about.reference,
            engine_revision=kept.engine_revision,
            store=kept.store,
            metrics=kept.metrics,
            reader=reader,
        )
    return ClassifierGuard(
        model.about,
        asked,
        reader,
        timeout_seconds=settings.guard_timeout_seconds,
        later_windows=model.file.later_windows,
        scripts=model.file.scripts,
        most_unknown=model.file.most_unknown,
    )


def _priced(guard: GuardReference, prices: PriceTable) -> Priced:
    return lambda usage: priced(usage, guard, prices)


def _ngram_guard(entry: NgramEntry, timeout_seconds: float) -> Guard:
    return ngram_guard(
        f"{COLLECTION}/{entry.name}",
        entry.folder,
        description=entry.description,
        threshold=entry.threshold,
        timeout_seconds=timeout_seconds,
    )


def _keyword_guard(entry: KeywordEntry) -> Guard:
    blocklist = read_blocklist(entry.blocklist)
    return KeywordGuard(
        f"{COLLECTION}/{entry.name}",
        entry.description or "Looks for the words and patterns of a blocklist.",
        blocklist,
        content_digest=file_sha256(entry.blocklist),
        template_digest=json_digest(TEMPLATE),
    )
