"""Golden transcripts pin every family's prompt and what its answers mean; they were written for this project."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from services.inference.contract import TemplatePrompt
from services.safety.formats.registry import FAMILIES
from services.safety.generative_guard import GenerativeGuard
from services.safety.judgement import Aspect, JudgedTurn, Role, Turn
from tests.fakes.language_model import FakeLanguageModel, build_format, describe

GOLDEN = Path(__file__).with_name("golden")
TRANSCRIPTS = [
    pytest.param(file.stem, transcript, id=f"{file.stem}: {transcript['name']}")
    for file in sorted(GOLDEN.glob("*.yaml"))
    for transcript in yaml.safe_load(file.read_text(encoding="utf-8"))
]


def judged_turn(transcript: dict[str, Any]) -> JudgedTurn:
    turns = [Turn(Role(each["role"]), each["content"]) for each in transcript["turns"]]
    aspect = Aspect.PROMPT if turns[-1].role is Role.USER else Aspect.RESPONSE
    return JudgedTurn(turns, len(turns) - 1, aspect)


def options_of(transcript: dict[str, Any]) -> dict[str, object]:
    return {
        "has_template": transcript.get("has_template", True),
        "categories": tuple(transcript.get("categories_asked", ())),
    }


def test_every_family_has_transcripts() -> None:
    assert {file.stem for file in GOLDEN.glob("*.yaml")} == set(FAMILIES)


@pytest.mark.parametrize(("kind", "transcript"), TRANSCRIPTS)
def test_the_prompt_is_as_written(kind: str, transcript: dict[str, Any]) -> None:
    question = build_format(kind, **options_of(transcript)).questions(judged_turn(transcript))[0]
    if "text" in transcript:
        assert question.prompt == transcript["text"] + transcript.get("text_ends", "")
    if "messages" in transcript:
        assert isinstance(question.prompt, TemplatePrompt)
        messages = [{"role": each.role, "content": each.content} for each in question.prompt.messages]
        assert messages == transcript["messages"]
        assert question.prompt.as_parts == transcript.get("as_parts", False)
        assert question.prompt.variables == transcript.get("variables", {})


@pytest.mark.parametrize(("kind", "transcript"), TRANSCRIPTS)
async def test_the_verdict_is_as_written(kind: str, transcript: dict[str, Any]) -> None:
    guard_format = build_format(kind, **options_of(transcript))
    model = FakeLanguageModel(transcript["answer"])
    model.likelihoods = transcript.get("likelihoods")
    guard = GenerativeGuard(describe(kind, guard_format), model, guard_format, timeout_seconds=30, max_concurrent=8)
    [verdict] = await guard.judge([judged_turn(transcript)])
    assert verdict.decision.value == transcript["decision"]
    assert verdict.error_reason == transcript.get("error_reason", "")
    assert verdict.unmapped is transcript.get("unmapped", False)
    assert verdict.refusal is transcript.get("refusal")
    assert verdict.over_refusal is transcript.get("over_refusal")
    if "scored" in transcript:
        assert model.scored[0] == tuple(transcript["scored"])
    if "unsafe_probability" in transcript:
        assert verdict.unsafe_probability == pytest.approx(transcript["unsafe_probability"])
    found = [
        [score.category.taxonomy, score.category.taxonomy_version, score.category.code, score.category.ailuminate_code]
        for score in verdict.categories
    ]
    assert found == transcript.get("categories", [])
