"""The harness's model over real gRPC, on a fake service that may refuse."""

import subprocess
import sys
from typing import Any

import grpc
import pytest
from evalfleet.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError
from evalfleet.generation.v1 import generation_pb2
from evalfleet.plugins.lm_eval import EvalFleetLM
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from tests.fakes.generation_service import GenerationServer, refusal

ABSENT = """
import sys

class Absent:
    def find_spec(self, name, *_):
        if name == {absent!r}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
"""


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


@pytest.fixture
def model(generation: GenerationServer) -> EvalFleetLM:
    return EvalFleetLM(model="step-100", endpoint=generation.target, patience_seconds=30)


def test_the_harness_finds_it_by_its_name() -> None:
    assert get_model("evalfleet") is EvalFleetLM


def test_all_choices_of_a_question_go_in_one_request(generation: GenerationServer, model: EvalFleetLM) -> None:
    pairs = [("q1", " a"), ("q1", "b"), ("q2", " ccc"), ("q1", " a")]
    assert model.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True) == [
        (-2.0, False), (-1.0, True), (-4.0, False), (-2.0, False),
    ]  # fmt: skip
    assert [(each.prompt, list(each.continuations)) for each in generation.service.scored] == [
        ("q1", [" a", "b"]),
        ("q2", [" ccc"]),
    ]
    assert {each.truncation for each in generation.service.scored} == {generation_pb2.TRUNCATION_POLICY_LEFT}


def test_whole_texts_follow_nothing(generation: GenerationServer, model: EvalFleetLM) -> None:
    assert model.loglikelihood_rolling(asked("loglikelihood_rolling", ("abc",), ("d",)), disable_tqdm=True) == [-3, -1]
    assert [each.prompt for each in generation.service.scored] == [""]


def test_answers_come_back_in_order_and_equal_greedy_prompts_are_asked_once(
    generation: GenerationServer, model: EvalFleetLM
) -> None:
    requests = asked("generate_until", ("b", {"until": ["x"]}), ("a", {}), ("b", {"until": ["x"]}))
    assert model.generate_until(requests, disable_tqdm=True) == ["b#0", "a#0", "b#0"]
    assert [each.sample_count for each in generation.service.generated] == [1, 1]


def test_sampled_prompts_are_sampled_as_often_as_they_are_asked(
    generation: GenerationServer, model: EvalFleetLM
) -> None:
    requests = asked("generate_until", *[("b", {"temperature": 1.0})] * 3)
    assert model.generate_until(requests, disable_tqdm=True) == ["b#0", "b#1", "b#2"]
    [request] = generation.service.generated
    assert request.sample_count == 3


def test_more_samples_than_a_request_may_have_are_not_the_same_again(
    generation: GenerationServer, model: EvalFleetLM
) -> None:
    requests = asked("generate_until", *[("b", {"temperature": 1.0, "seed": 7})] * 300)
    model.generate_until(requests, disable_tqdm=True)
    generated = generation.service.generated
    assert sorted(each.sample_count for each in generated) == [44, 128, 128]
    seeds = {each.sampling.seed for each in generated}
    assert len(seeds) == 3
    assert 7 in seeds
    model.generate_until(requests, disable_tqdm=True)
    assert {each.sampling.seed for each in generation.service.generated[3:]} == seeds


def test_a_chat_is_sent_as_a_conversation(generation: GenerationServer, model: EvalFleetLM) -> None:
    context = model.apply_chat_template([{"role": "user", "content": "hi"}])
    model.loglikelihood(asked("loglikelihood", (context, "x")), disable_tqdm=True)
    [request] = generation.service.scored
    assert request.WhichOneof("context") == "conversation"
    assert request.conversation.messages[0].content == "hi"
    assert model.tokenizer_name == f"evalfleet--{'ab' * 32}"
    assert model.chat_template(True) == ""
    with pytest.raises(InvalidArgumentError, match="own one only"):
        model.chat_template("tool_use")


def test_an_answers_beginning_is_continued_and_nothing_else(model: EvalFleetLM) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The answer"}]
    assert "The answer" in model.apply_chat_template(turns, add_generation_prompt=False)
    with pytest.raises(InvalidArgumentError, match="continued exactly if"):
        model.apply_chat_template(turns)


@pytest.mark.parametrize("retry_seconds", [0, 0.01])
def test_what_is_refused_for_now_is_asked_again(
    generation: GenerationServer, model: EvalFleetLM, monkeypatch: pytest.MonkeyPatch, retry_seconds: float
) -> None:
    monkeypatch.setattr("evalfleet.plugins.lm_eval.asking._PAUSE_SECONDS", 0.01)
    generation.service.refusals.append(refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=retry_seconds))
    assert model.generate_until(asked("generate_until", ("a", {}), ("b", {})), disable_tqdm=True) == ["a#0", "b#0"]
    assert [each.prompt for each in generation.service.generated] == ["a", "b", "a"]


def test_patience_ends(generation: GenerationServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalfleet.plugins.lm_eval.asking._PAUSE_SECONDS", 0.01)
    model = EvalFleetLM(model="step-100", endpoint=generation.target, patience_seconds=0)
    generation.service.refusals.extend([refusal(grpc.StatusCode.RESOURCE_EXHAUSTED)] * 50)
    with pytest.raises(ResourceExhaustedError):
        model.generate_until(asked("generate_until", ("a", {})), disable_tqdm=True)


def test_what_is_wrong_with_a_request_is_final(generation: GenerationServer, model: EvalFleetLM) -> None:
    generation.service.refusals.append(refusal(grpc.StatusCode.INVALID_ARGUMENT, "too hot"))
    with pytest.raises(InvalidArgumentError, match="too hot"):
        model.generate_until(asked("generate_until", ("a", {})), disable_tqdm=True)
    assert len(generation.service.generated) == 1


def test_a_wrong_name_is_told_before_anything_is_asked(generation: GenerationServer) -> None:
    with pytest.raises(NotFoundError, match="step-100"):
        EvalFleetLM(model="step-10", endpoint=generation.target)
    with pytest.raises(InvalidArgumentError, match="model=NAME"):
        EvalFleetLM(endpoint=generation.target)
    with pytest.raises(InvalidArgumentError, match="priority"):
        EvalFleetLM.create_from_arg_string(f"model=step-100,endpoint={generation.target},priority=urgent")


@pytest.mark.parametrize(
    ("package", "absent", "extra"),
    [
        ("lm_eval", "lm_eval", "evalfleet[lm-eval]"),
        ("inspect", "inspect_ai", "evalfleet[inspect]"),
        ("lm_eval_tasks", "yaml", "evalfleet[import-task]"),
    ],
)
def test_without_the_harness_the_extra_is_named(package: str, absent: str, extra: str) -> None:
    code = ABSENT.format(absent=absent) + f"import evalfleet.plugins.{package}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert extra in ended.stderr
