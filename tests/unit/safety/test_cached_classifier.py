from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.sqlite_store import SqliteCacheStore
from services.runtime.cache.store import NewEntry
from services.runtime.errors import UnavailableError
from services.runtime.usage import Usage
from services.safety.cached_classifier import CachedClassifier
from services.safety.guard import LabelledText
from services.safety.judgement import GuardReference
from services.safety.reading import LabelReader
from tests.fakes.classifier import LABELS, FakeClassifier, answer, cost_of, guard_file, in_windows
from tests.fakes.kept_entries import kept_keys

GUARD = GuardReference("guards/g", "w", "t", "c", "e", "float32")


def cached(
    inner: FakeClassifier, store: SqliteCacheStore, guard: GuardReference = GUARD, revision: str = "r"
) -> CachedClassifier:
    metrics = CacheMetrics("test", CollectorRegistry())
    reader = LabelReader(LABELS, guard_file())
    return CachedClassifier(inner, guard, engine_revision=revision, store=store, metrics=metrics, reader=reader)


async def ask(classifier: CachedClassifier, *texts: str) -> list[LabelledText]:
    return list(await classifier.classify(texts, timeout_seconds=5.0))


async def test_known_texts_are_not_asked_again(store: SqliteCacheStore) -> None:
    inner = FakeClassifier()
    classifier = cached(inner, store)
    first = await ask(classifier, "a", "bb", "a")
    known = [replace(each.from_cache, cached=True) for each in first]
    assert await ask(classifier, "bb", "ccc", "a") == [known[1], answer(0.003), known[0]]
    assert inner.requests == [("a", "bb"), ("ccc",)]
    await store.flush()
    assert await ask(classifier, "a") == known[:1]


async def test_what_was_not_read_of_a_known_text_is_known(store: SqliteCacheStore) -> None:
    long = in_windows(answer(0.1), answer(0.1, unknown_share=0.75))
    classifier = cached(FakeClassifier(lambda texts: [long for _ in texts]), store)
    for _ in range(2):
        [found] = await ask(classifier, "a")
        assert [each.unknown_share for each in (found, *found.later)] == [0.0, 0.75]
    assert found.cached


async def test_of_equal_texts_the_first_pays_and_known_ones_only_save(store: SqliteCacheStore) -> None:
    long = in_windows(answer(0.1, num_tokens=9), answer(0.25, num_tokens=4))
    classifier = cached(FakeClassifier(lambda texts: [long for _ in texts]), store)
    saved = [Usage(prompt_tokens=count, cache_saved_tokens=count) for count in (9, 4)]
    first, same = await ask(classifier, "a", "a")
    assert [first.usage, first.later[0].usage] == [cost_of(9), cost_of(4)]
    assert [same.usage, same.later[0].usage] == saved
    [known] = await ask(classifier, "a")
    assert [known.usage, known.later[0].usage] == saved


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


@pytest.mark.parametrize(
    "unusable",
    [
        answer(1.5),
        answer(-0.1),
        answer(float("inf")),
        answer(0.1, num_tokens=2),
        LabelledText([0.1], 9, False),
        LabelledText([], 9, False),
        in_windows(answer(0.1), answer(0.2, num_tokens=2)),
    ],
)
async def test_what_the_guard_cannot_use_is_asked_again(store: SqliteCacheStore, unusable: LabelledText) -> None:
    said = [unusable, answer(0.1)]
    inner = FakeClassifier(lambda texts: [said[len(inner.requests) - 1]])
    classifier = cached(inner, store)
    assert [await ask(classifier, "a") for _ in range(2)] == [[unusable], [answer(0.1)]]


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
