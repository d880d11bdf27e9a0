"""Two runs' items are brought together whatever the pieces they come in."""

import json
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from services.aggregation.comparison.answers import Answer, AnsweredItem, ItemMerge, value_of
from services.aggregation.comparison.pairs import TaskPairs
from services.aggregation.records import Cost, Failed, MetricFailure, Observation, ResultKey, Scored
from services.aggregation.texts import StoredText

Keys = Mapping[str, int]


def answer(
    item: str,
    *,
    task: str = "t",
    sample: int = 0,
    outcome: Scored | Failed | None = None,
    prompt: str = "p",
    judges: str = "[]",
    draw_index: int = 0,
    groups: Mapping[str, str] | None = None,
) -> Answer:
    key = ResultKey(task, item, sample)
    observation = Observation(key, outcome or Scored({"acc": 1.0}), groups or {}, Cost(), False)
    return Answer(observation, draw_index, judges, StoredText(None, prompt, None))


class Taken:
    """Remembers what it was given: names and numbers of samples."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, int, int]] = []

    def take(self, base: AnsweredItem | None, variant: AnsweredItem | None) -> None:
        item = base or variant
        assert item is not None
        self.pairs.append((item.key[1], len(base.samples) if base else 0, len(variant.samples) if variant else 0))


RUNS = st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(1, 3), max_size=12)


@given(base=RUNS, variant=RUNS, sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_every_item_comes_once_with_all_its_samples(base: Keys, variant: Keys, sizes: list[int]) -> None:
    taken = Taken()
    merge = ItemMerge(taken)
    left = [
        [answer(item, sample=sample) for item in sorted(run) for sample in range(run[item])] for run in (base, variant)
    ]
    turn = 0
    while (side := merge.is_behind) is not None:
        size = sizes[turn % len(sizes)]
        turn += 1
        piece, left[side] = left[side][:size], left[side][size:]
        if piece:
            merge.add(side, piece)
        else:
            merge.finish(side)
    expected = sorted(base.keys() | variant.keys())
    assert taken.pairs == [(item, base.get(item, 0), variant.get(item, 0)) for item in expected]


def test_a_run_far_ahead_is_not_read_on() -> None:
    merge = ItemMerge(Taken())
    merge.add(0, [answer(f"{number:03}") for number in range(100)])
    assert merge.is_behind == 1


def test_what_a_failed_item_counts_as() -> None:
    right, lost = Scored({"acc": 1.0}), Failed("TIMEOUT", "", {})
    zero = Failed("TIMEOUT", "", {"acc": 0.0})

    def item(*outcomes: Scored | Failed) -> AnsweredItem:
        return AnsweredItem(tuple(answer("a", sample=number, outcome=each) for number, each in enumerate(outcomes)))

    counted = value_of(item(right, zero), "acc")
    assert counted is not None
    assert (counted.value, counted.lowest, counted.highest, counted.is_known) == (0.5, 0.5, 0.5, True)
    unsure = value_of(item(right, lost), "acc")
    assert unsure is not None
    assert (unsure.value, unsure.lowest, unsure.highest, unsure.is_known) == (1.0, 0.5, 1.0, False)
    nothing = value_of(item(lost), "acc")
    assert nothing is not None
    assert (nothing.value, nothing.lowest, nothing.highest) == (None, 0.0, 1.0)
    assert value_of(item(right), "f1") is None


def test_judges_differ_where_one_name_stands_for_two_or_none_is_shared() -> None:
    def judged(*names: tuple[str, str]) -> AnsweredItem:
        return AnsweredItem((answer("a", judges=json.dumps([[name, "1", digest] for name, digest in names])),))

    def differ(base: AnsweredItem, variant: AnsweredItem) -> bool:
        pairs = TaskPairs(None, "")
        pairs.take(base, variant)
        return pairs.judges_differ

    exact, empty = ("scorers/exact", "a"), ("guards/none", "e")
    assert not differ(judged(exact), judged(exact))
    assert not differ(judged(exact, empty), judged(exact))
    assert differ(judged(exact), judged(("scorers/exact", "b")))
    assert differ(judged(exact), judged(("scorers/other", "a")))
    assert not differ(judged(), judged(exact))


def test_an_unjudged_metric_is_open_and_one_that_was_not_asked_for_is_none() -> None:
    garbage = MetricFailure(("judged",), "JUDGE_UNPARSABLE")
    unjudged = answer("a", outcome=Scored({"acc": 1.0}, failures=(garbage,)))
    scored = answer("a", sample=1, outcome=Scored({"acc": 1.0, "judged": 1.0}))
    alone, beside = (value_of(AnsweredItem(samples), "judged") for samples in ((unjudged,), (unjudged, scored)))
    assert (alone and (alone.value, alone.lowest, alone.highest)) == (None, 0.0, 1.0)
    assert (beside and (beside.value, beside.lowest, beside.highest)) == (1.0, 0.5, 1.0)
    assert value_of(AnsweredItem((unjudged,)), "f1") is None
    slow = MetricFailure(("judged",), "PATTERN_TIMEOUT", "", {"judged": 0.0})
    counted = value_of(AnsweredItem((answer("a", outcome=Scored({"acc": 1.0}, failures=(slow,))),)), "judged")
    assert counted is not None
    assert counted.is_known
