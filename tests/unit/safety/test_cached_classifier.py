from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.sqlite_store import SqliteCacheStore
from services.runtime.cache.store import NewEntry
from services.runtime.errors import UnavailableError
from services.safety.cached_classifier import CachedClassifier
from services.safety.guard import LabelledText
from services.safety.judgement import GuardReference
from tests.fakes.classifier import FakeClassifier, answer, in_windows
from tests.fakes.kept_entries import kept_keys

GUARD = GuardReference("guards/g", "w", "t", "c", "e", "float32")


def cached(
    inner: FakeClassifier, store: SqliteCacheStore, guard: GuardReference = GUARD, revision: str = "r"
) -> CachedClassifier:
    metrics = CacheMetrics("test", CollectorRegistry())
    return CachedClassifier(inner, guard, engine_revision=revision, store=store, metrics=metrics)


async def ask(classifier: CachedClassifier, *texts: str) -> list[LabelledText]:
    return list(await classifier.classify(texts, timeout_seconds=5.0))


async def test_known_texts_are_not_asked_again(store: SqliteCacheStore) -> None:
    inner = FakeClassifier()
    classifier = cached(inner, store)
    first = await ask(classifier, "a", "bb", "a")
    known = [replace(each, cached=True) for each in first]
    assert await ask(classifier, "bb", "ccc", "a") == [known[1], answer(0.003), known[0]]
    assert inner.requests == [("a", "bb"), ("ccc",)]
    await store.flush()
    assert await ask(classifier, "a") == known[:1]


async def test_windows_are_kept_and_one_that_is_no_number_keeps_none(store: SqliteCacheStore) -> None:
    long = in_windows(answer(0.1), answer(0.25), answer(0.5))
    said = {"long": long, "odd": in_windows(answer(0.1), answer(float("nan")))}
    inner = FakeClassifier(lambda texts: [said[text] for text in texts])
    classifier = cached(inner, store)
    for _ in range(2):
        [found, _] = await ask(classifier, "long", "odd")
        assert [each.probabilities[0] for each in (found, *found.later)] == [0.1, 0.25, 0.5]
    assert found.cached
    assert all(each.cached for each in found.later)
    assert inner.requests == [("long", "odd"), ("odd",)]


@pytest.mark.parametrize("part", ["weights_digest", "template_digest", "engine", "dtype"])
async def test_another_guard_is_asked_anew(store: SqliteCacheStore, part: str) -> None:
    inner = FakeClassifier()
    await ask(cached(inner, store), "a")
    await ask(cached(inner, store, replace(GUARD, **{part: "other"})), "a")
    await ask(cached(inner, store, revision="other"), "a")
    await ask(cached(inner, store, replace(GUARD, calibration_digest="other")), "a")
    assert len(inner.requests) == 3, "calibration is applied to what is kept"


async def test_failures_and_unusable_answers_are_not_kept(store: SqliteCacheStore) -> None:
    def fail(_texts: object) -> list[LabelledText]:
        raise UnavailableError("away")

    inner = FakeClassifier(fail)
    classifier = cached(inner, store)
    with pytest.raises(UnavailableError):
        await ask(classifier, "a")
    inner.answer = lambda texts: [answer(float("nan")) for _ in texts]
    await ask(classifier, "a")
    inner.answer = None
    assert await ask(classifier, "a") == [answer(0.001)]
    assert len(inner.requests) == 3


async def test_an_answer_of_the_wrong_length_is_nobodys(store: SqliteCacheStore) -> None:
    inner = FakeClassifier(lambda _texts: [answer(0.5)])
    classifier = cached(inner, store)
    assert len(await ask(classifier, "a", "b")) == 1
    inner.answer = None
    assert await ask(classifier, "a", "b") == [answer(0.001), answer(0.001)]


async def test_a_damaged_entry_is_asked_anew(store: SqliteCacheStore, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = FakeClassifier()
    classifier = cached(inner, store)
    with kept_keys(store, monkeypatch) as keys:
        await ask(classifier, "a")
    [key] = keys
    await store.put(NewEntry(key, b"damaged"))
    assert await ask(classifier, "a") == [answer(0.001)]
    assert len(inner.requests) == 2
