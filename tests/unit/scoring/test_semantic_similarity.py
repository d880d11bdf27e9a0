"""Texts that mean the same, on a fake encoder."""

import pytest

from services.runtime.usage import Usage
from services.scoring.contract import ChoicesOutput, Output, Score, ScoringItem, TextOutput
from services.scoring.encoding.errors import EncoderNotFoundError
from services.scoring.errors import InvalidScoreRequestError, TextTooLongError
from services.scoring.registry import ScorerRegistry
from services.scoring.scorers.semantic_similarity import SemanticSimilarity
from tests.fakes.text_encoder import WORDS_A_WINDOW, FakeTextEncoder


async def score(encoder: FakeTextEncoder, output: Output, *targets: str, **parameters: object) -> Score:
    bound = ScorerRegistry([SemanticSimilarity(encoder)]).bind("scorers/semantic_similarity", parameters)
    return await bound.score_async(ScoringItem(targets=targets), output)


async def test_the_nearest_target_counts() -> None:
    encoder = FakeTextEncoder()
    found = await score(encoder, TextOutput("the red fox"), "a blue whale", "the red dog", "the end")
    assert found.extracted_answer == "the red dog"
    assert found.metrics == {"similarity": pytest.approx(2 / 3), "cosine": pytest.approx(2 / 3)}
    assert found.usage == Usage(prompt_tokens=11, computed_prompt_tokens=11, engine_seconds=0.25)
    assert encoder.asked == [("the red fox", "a blue whale", "the red dog", "the end")]


async def test_a_threshold_makes_it_right_or_wrong() -> None:
    encoder = FakeTextEncoder()
    for threshold, expected in ((0.6, 1.0), (0.7, 0.0)):
        found = await score(encoder, TextOutput("the red fox"), "the red dog", threshold=threshold)
        assert found.metrics["similar"] == expected


async def test_the_encoder_is_part_of_what_judged() -> None:
    encoder = FakeTextEncoder()
    first = await score(encoder, TextOutput("a"), "a")
    encoder.digest = "e2"
    assert (await score(encoder, TextOutput("a"), "a")).decided_by != first.decided_by


async def test_a_blank_text_is_like_nothing() -> None:
    assert (await score(FakeTextEncoder(), TextOutput(" \n"), "a")).metrics == {"similarity": 0.0, "cosine": 0.0}


async def test_a_long_text_is_read_in_windows_that_count_by_their_tokens() -> None:
    long = "fox " * WORDS_A_WINDOW + "whale " * (WORDS_A_WINDOW // 4)
    found = await score(FakeTextEncoder(), TextOutput(long), "fox")
    assert found.metrics["cosine"] == pytest.approx(1 / (1 + 1 / 16) ** 0.5)
    with pytest.raises(TextTooLongError, match=r"targets\[1\] needs more windows"):
        await score(FakeTextEncoder(), TextOutput("fox"), "fox", long, max_windows=1)


async def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InvalidScoreRequestError, match="set text"):
        await score(FakeTextEncoder(), ChoicesOutput((-1.0, -2.0), ("a", "b")), "a")
    with pytest.raises(InvalidScoreRequestError, match="at least one"):
        await score(FakeTextEncoder(), TextOutput("a"))
    with pytest.raises(InvalidScoreRequestError, match=r"targets\[1\]"):
        await score(FakeTextEncoder(), TextOutput("a"), "a", " ")
    with pytest.raises(TextTooLongError):
        await score(FakeTextEncoder(), TextOutput("a" * 300_000), "a")


async def test_without_an_encoder_there_is_no_score() -> None:
    encoder = FakeTextEncoder()
    encoder.failure = EncoderNotFoundError("there is none")
    for text in ("a", ""):
        with pytest.raises(EncoderNotFoundError):
            await score(encoder, TextOutput(text), "a")
