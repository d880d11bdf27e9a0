"""What a judge was asked is told apart by all of it."""

from dataclasses import replace

import pytest

from services.scoring.judges.judge_model import Decoding, JudgePrompt, ModelIdentity
from services.scoring.judges.known_answers import Question

ASKED = Question(
    ModelIdentity("digest", True), JudgePrompt("Is it good?", "chat"), Decoding(10, 0.0, 0, 1), ("yes", "no"), True
)


@pytest.mark.parametrize(
    "other",
    [
        replace(ASKED, judge=ModelIdentity("other", True)),
        replace(ASKED, prompt=JudgePrompt("Is it good? ", "chat")),
        replace(ASKED, prompt=JudgePrompt("Is it good?", "plain")),
        replace(ASKED, prompt=JudgePrompt("Is it good?\ud800", "chat")),
        replace(ASKED, decoding=Decoding(10, 0.0, 1, 1)),
        replace(ASKED, words=("no", "yes")),
        replace(ASKED, wants_likelihoods=False),
    ],
)
def test_another_question_has_another_key(other: Question) -> None:
    assert other.key() != ASKED.key()
    assert other.key("engines") != other.key()


def test_the_same_question_has_the_same_key_however_long_it_is() -> None:
    long = replace(ASKED, prompt=JudgePrompt("🙂" * 500_000, "chat"))
    assert long.key() == replace(ASKED, prompt=JudgePrompt("🙂" * 500_000, "chat")).key()
    assert long.prompt.digest != ASKED.prompt.digest
