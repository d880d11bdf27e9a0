"""Training on a bounded number of labels: what is asked, what is learnt, what is measured, and what it brings."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from evalfleet.calibration.rows import Text
from numpy.typing import NDArray

from services.distillation.assessing import assess
from services.distillation.distilling import Round, distil, distil_at_random, distinct, judged_text
from services.distillation.errors import PlanError, TooFewLabelsError
from services.distillation.labels import TeacherLabel
from services.distillation.plan import Plan
from services.distillation.students import NgramStudent
from services.safety.ngram_model import NgramSettings

SETTINGS = NgramSettings(words=(1, 1), characters=(3, 3), features=2**12)
HAZARDS = [f"zap{number}" for number in range(12)]
OTHERS = [f"mild{number}" for number in range(200)]


class FakeTeacher:
    """Calls unsafe what holds a word that begins with ``zap``; knows nothing of what is in ``silent``."""

    def __init__(self, silent: str = "never") -> None:
        self.silent = silent
        self.asked: list[Text] = []

    def label(self, texts: Sequence[Text]) -> list[TeacherLabel | None]:
        """Answer and remember."""
        self.asked += texts
        return [None if self.silent in judged_text(text) else self._one(text) for text in texts]

    def _one(self, text: Text) -> TeacherLabel:
        is_unsafe = "zap" in judged_text(text)
        return TeacherLabel("unsafe" if is_unsafe else "safe", 0.9 if is_unsafe else 0.1, 0.5)


class CountingStudent(NgramStudent):
    """Counts how often it is trained."""

    fits = 0

    def fit(self, texts: Sequence[str], targets: NDArray[np.float64]) -> None:
        """Count and learn."""
        self.fits += 1
        super().fit(texts, targets)


def prompt(content: str, is_unsafe: bool | None = None) -> Text:
    return Text((("user", content),), is_unsafe)


def pool(count: int, unsafe_share: float = 0.3, seed: int = 0, labelled: bool = False) -> list[Text]:
    """Texts of mild words; in some, one is a hazard, of which some are rare."""
    source = random.Random(seed)
    weights = [1 / (rank + 1) ** 2 for rank in range(len(HAZARDS))]
    texts = []
    for _ in range(count):
        words = source.choices(OTHERS, k=8)
        is_unsafe = source.random() < unsafe_share
        if is_unsafe:
            words[source.randrange(8)] = source.choices(HAZARDS, weights)[0]
        texts.append(prompt(" ".join(words), is_unsafe if labelled else None))
    return texts


def student() -> NgramStudent:
    return NgramStudent(SETTINGS)


def test_no_more_labels_are_used_than_allowed_and_none_twice() -> None:
    teacher, rounds = FakeTeacher(), list[Round]()
    texts = pool(600)
    done = distil(texts, teacher, student(), Plan(200, rounds=4), report=rounds.append)
    assert len(teacher.asked) == 200
    assert len({judged_text(each) for each in teacher.asked}) == 200
    assert (len(done.training.rows), len(done.held_out.rows), done.undecided) == (150, 50, 0)
    assert not set(done.training.rows) & set(done.held_out.rows)
    assert [each.labels for each in rounds] == [38, 66, 94, 122, 150]
    assert done.rounds == tuple(rounds)


def test_a_budget_beyond_the_texts_labels_them_all() -> None:
    teacher = FakeTeacher()
    done = distil(pool(100), teacher, student(), Plan(5000))
    assert len(teacher.asked) == 100
    assert (len(done.training.rows), len(done.held_out.rows)) == (75, 25)


def test_what_it_doubts_is_asked_next() -> None:
    """The student hears of a word once, in the first part; all that has it is near 0.5 and is asked about."""
    texts = pool(1000, unsafe_share=0.1)
    teacher = FakeTeacher()
    distil(texts, teacher, student(), Plan(300, random_share=0.0))
    random_share = sum("zap" in judged_text(each) for each in texts) / len(texts)
    first = 75 + 56
    chosen = teacher.asked[first:]
    assert sum("zap" in judged_text(each) for each in chosen) / len(chosen) > 1.5 * random_share


def test_choosing_finds_more_than_chance_with_as_many_labels() -> None:
    chosen, drawn = list[float](), list[float]()
    for seed in range(5):
        texts = pool(2000, unsafe_share=0.1, seed=seed)
        plan = Plan(300, rounds=8, seed=seed)
        fresh = pool(1000, unsafe_share=0.5, seed=100 + seed)
        truth = np.array(["zap" in judged_text(each) for each in fresh])
        for outcomes, train in ((chosen, distil), (drawn, distil_at_random)):
            done = train(texts, FakeTeacher(), student(), plan)
            said = done.student.says([judged_text(each) for each in fresh]).probabilities >= 0.5
            outcomes.append(float((said == truth).mean()))
    assert np.mean(chosen) > np.mean(drawn) + 0.01


def test_random_choice_is_measured_on_the_same_texts_and_shares_the_first_labels() -> None:
    texts = pool(600)
    one, other = FakeTeacher(), FakeTeacher()
    plan = Plan(200)
    first = distil(texts, one, student(), plan)
    second = distil_at_random(texts, other, student(), plan)
    assert first.held_out == second.held_out
    assert len(second.training.rows) == len(first.training.rows)
    assert second.training.rows[:38] == first.training.rows[:38]
    assert len(second.rounds) == 1


def test_a_cheaper_student_can_choose_for_one_that_is_slow_to_train() -> None:
    texts, plan = pool(600), Plan(200)
    slow, cheap, alone = CountingStudent(SETTINGS), CountingStudent(SETTINGS), FakeTeacher()
    chosen = FakeTeacher()
    done = distil(texts, chosen, slow, plan, chooser=cheap)
    distil(texts, alone, student(), plan)
    assert (slow.fits, cheap.fits) == (1, 7)
    assert done.student is slow
    assert chosen.asked == alone.asked
    assert slow.model.known_words == cheap.model.known_words


def test_the_same_seed_makes_the_same_student() -> None:
    texts = pool(400)
    students = [distil(texts, FakeTeacher(), student(), Plan(150, seed=seed)) for seed in (3, 3, 4)]
    assert students[0].training == students[1].training
    assert students[0].training != students[2].training


def test_rare_hazards_are_waited_for() -> None:
    """The first part may hold none: then more is drawn at random until there is something to tell apart."""
    texts = [prompt(f"mild{number} mild") for number in range(300)]
    texts += [prompt(f"zap{number} zap") for number in range(12)]
    done = distil(texts, FakeTeacher(), student(), Plan(250, first_share=0.02, seed=6))
    assert done.training.unsafe.any()
    assert len(done.training.rows) == 188


def test_what_the_teacher_cannot_decide_teaches_nothing() -> None:
    texts = pool(300)
    done = distil(texts, FakeTeacher(silent="mild7 "), student(), Plan(200))
    assert done.undecided > 0
    assert done.undecided + len(done.training.rows) + len(done.held_out.rows) == 200
    assert not any("mild7 " in judged_text(texts[row]) for row in (*done.training.rows, *done.held_out.rows))


@pytest.mark.parametrize(
    ("texts", "teacher", "error"),
    [
        (pool(39), FakeTeacher(), PlanError),
        (pool(100), FakeTeacher(silent="mild"), TooFewLabelsError),
        (pool(100, unsafe_share=0.0), FakeTeacher(), TooFewLabelsError),
        (pool(100, unsafe_share=1.0), FakeTeacher(), TooFewLabelsError),
    ],
)
def test_what_teaches_nothing_is_refused(texts: list[Text], teacher: FakeTeacher, error: type[Exception]) -> None:
    with pytest.raises(error):
        distil(texts, teacher, student(), Plan(80))


def test_texts_that_are_alike_count_once_and_keep_their_label() -> None:
    texts = [prompt("One  two"), prompt("one two", True), prompt("three"), Text((("assistant", "three"),), None)]
    assert distinct(texts) == [texts[1], texts[2], texts[3]]


def test_a_student_is_measured_beside_its_teacher_and_people() -> None:
    """People agree with the teacher here, but for one kind of text."""
    texts = [
        Text(each.conversation, False if "mild9 " in judged_text(each) else each.is_unsafe)
        for each in pool(800, labelled=True)
    ]
    done = distil(texts, FakeTeacher(), student(), Plan(600))
    assessment = assess(done, texts, seed=1)
    assert (assessment.held_out, assessment.unjudged) == (150, 0)
    assert assessment.student_teacher is not None
    assert assessment.student_people is not None
    assert assessment.teacher_people is not None
    assert assessment.student_teacher.agreement.value > 0.9
    assert 0.95 < assessment.teacher_people.agreement.value < 1
    assert assessment.teacher_people.auprc is not None
    assert assessment.student_people.rows == assessment.teacher_people.rows == 150


def test_what_a_student_would_not_judge_is_left_out_and_counted() -> None:
    texts = [*pool(300), *(prompt(f"völlig{number} anders{number} überall{number}") for number in range(300))]
    done = distil(texts, FakeTeacher(), student(), Plan(80))
    assessment = assess(done, texts, seed=1)
    assert 0 < assessment.unjudged < assessment.held_out
    assert assessment.student_teacher is not None
    assert assessment.student_teacher.rows == assessment.held_out - assessment.unjudged
    assert assessment.student_people is None
