"""Requests as the foreign servers want them, and responses that may be anything."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.foreign.adapter import ForeignAdapter, ForeignPiece
from services.generation.foreign.backend import ADAPTERS
from services.generation.foreign.connection import ModelShape
from services.generation.foreign.errors import ForeignAnswerError, ForeignModelMismatchError, ForeignUnsupportedError
from services.generation.foreign.target import ForeignProtocol
from services.generation.foreign.tensorrt_llm import TensorRtLlmAdapter
from services.generation.foreign.tokenizer import WireChoices, WirePrompt
from services.generation.foreign.vllm_backend import VllmBackendAdapter
from services.generation.requests import FinishReason, Sampling
from services.inference.tensors import Array, text_array, write_request
from services.runtime.errors import InvalidArgumentError

PROMPT = WirePrompt("2 + 3 =", 6)
CHOICES = WireChoices(PROMPT, (0, 2))
FLAT = ModelShape({}, {}, is_batched=False, is_decoupled=True)
BATCHED = ModelShape({}, {}, is_batched=True, is_decoupled=False)
VLLM, TENSORRT = VllmBackendAdapter(), TensorRtLlmAdapter()
VLLM_SHAPE = ModelShape(
    {
        **dict.fromkeys(("text_input", "sampling_parameters"), "TYPE_STRING"),
        **dict.fromkeys(("stream", "exclude_input_in_output", "return_finish_reason", "return_logprobs"), "TYPE_BOOL"),
        **dict.fromkeys(("return_num_input_tokens", "return_num_output_tokens"), "TYPE_BOOL"),
    },
    {
        **dict.fromkeys(("text_output", "finish_reason", "logprobs"), "TYPE_STRING"),
        **dict.fromkeys(("num_input_tokens", "num_output_tokens"), "TYPE_UINT32"),
    },
    is_batched=False,
    is_decoupled=True,
)


def vllm_answer(text: str = "5", reason: str = "stop", tokens: int = 1) -> dict[str, Array]:
    return {
        "text_output": text_array(text),
        "finish_reason": text_array(reason),
        "num_input_tokens": np.asarray(6, np.uint32),  # without dimensions, as the backend sends it
        "num_output_tokens": np.array([tokens], np.uint32),
    }


def tensorrt_answer(text: str = "5", tokens: int = 1) -> dict[str, Array]:
    return {
        "text_output": text_array(text).reshape(1, 1),
        "num_input_tokens": np.array([[6]], np.int32),
        "num_output_tokens": np.array([[tokens]], np.int32),
    }


def asked(adapter: ForeignAdapter, sampling: Sampling, shape: ModelShape = FLAT) -> dict[str, Any]:
    inputs = adapter.generation(PROMPT, sampling, shape, stream=False).inputs
    write_request("model", "id", inputs)  # every tensor has a type that travels
    return {name: array.ravel()[0] for name, array in inputs.items()}


@pytest.mark.parametrize("adapter", ADAPTERS.values())
def test_the_prompt_never_comes_back_and_tokens_are_always_counted(adapter: ForeignAdapter) -> None:
    inputs = asked(adapter, Sampling())
    assert inputs["exclude_input_in_output"]
    assert inputs["return_num_input_tokens"]
    assert inputs["return_num_output_tokens"]
    assert inputs["text_input"] == b"2 + 3 ="


def test_vllm_is_told_what_its_defaults_do_not_say() -> None:
    greedy = json.loads(asked(VLLM, Sampling(max_tokens=7))["sampling_parameters"])
    assert greedy == {"max_tokens": 7, "temperature": 0.0}
    drawn = Sampling(8, 0.5, 0.9, 40, ("\n",), 3)
    told = json.loads(asked(VLLM, drawn)["sampling_parameters"])
    assert told == {"max_tokens": 8, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "stop": ["\n"], "seed": 3}


def test_tensorrt_is_told_everything_because_its_defaults_are_others() -> None:
    greedy = asked(TENSORRT, Sampling(max_tokens=7))
    assert (greedy["max_tokens"], greedy["top_k"]) == (7, 1)
    assert "temperature" not in greedy
    drawn = asked(TENSORRT, Sampling(temperature=0.5, stop=("\n", "END")))
    assert (drawn["temperature"], drawn["top_k"], drawn["top_p"], drawn["stop_words"]) == (0.5, 0, 1.0, b"\n")
    again = asked(TENSORRT, Sampling(temperature=0.5))
    assert drawn["seed"] != again["seed"], "without a seed each request must draw anew"
    assert asked(TENSORRT, Sampling(temperature=0.5, seed=9))["seed"] == 9
    shaped = TENSORRT.generation(PROMPT, Sampling(stop=("a", "b")), BATCHED, stream=False).inputs
    assert {name: array.shape for name, array in shaped.items()}["stop_words"] == (1, 2)
    assert shaped["max_tokens"].shape == (1, 1)


@pytest.mark.parametrize("adapter", ADAPTERS.values())
@pytest.mark.parametrize("bad", [{"temperature": math.nan}, {"top_p": 0.0}, {"max_tokens": 0}, {"stop": ("",)}])
def test_bad_sampling_values_are_never_sent(adapter: ForeignAdapter, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        asked(adapter, Sampling(**bad))
    assert caught.value.reason == "INVALID_SAMPLING_PARAMETERS"


def test_what_single_precision_cannot_hold_is_not_sent_to_tensorrt() -> None:
    for bad in (Sampling(temperature=1e-60), Sampling(temperature=1.0, top_p=1e-60)):
        with pytest.raises(InvalidArgumentError, match="single precision"):
            asked(TENSORRT, bad)


def test_finish_reasons_of_vllm() -> None:
    assert VLLM.read_piece(vllm_answer(), Sampling()) == ForeignPiece("5", 1, 6, FinishReason.STOP)
    assert VLLM.read_piece(vllm_answer("", "None", 0), Sampling()).finish_reason is None
    assert VLLM.read_piece(vllm_answer(reason="length"), Sampling()).finish_reason is FinishReason.LENGTH
    for word in ("abort", "error", ""):
        with pytest.raises(ForeignAnswerError):
            VLLM.read_piece(vllm_answer(reason=word), Sampling())


def test_no_answer_is_never_a_text() -> None:
    with pytest.raises(ForeignAnswerError, match="could not answer") as caught:
        VLLM.read_piece({"text_output": text_array("N/A")}, Sampling())
    assert caught.value.reason == "FOREIGN_ANSWER_INCOMPLETE"
    said_by_the_model = VLLM.read_piece(vllm_answer("N/A"), Sampling())
    assert said_by_the_model.text == "N/A", "with counts and a finish reason the model said so itself"


def test_tensorrt_is_cut_at_the_first_stop_string() -> None:
    sampling = Sampling(max_tokens=3, stop=("END", "\n"))
    piece = TENSORRT.read_piece(tensorrt_answer("5\n6 END", 3), sampling)
    assert (piece.text, piece.finish_reason) == ("5", FinishReason.STOP)
    assert TENSORRT.read_piece(tensorrt_answer("5", 3), sampling).finish_reason is FinishReason.LENGTH
    assert TENSORRT.read_piece(tensorrt_answer("", 0), sampling) == ForeignPiece("", 0, 6, FinishReason.STOP)


def wild_arrays() -> st.SearchStrategy[Array]:
    texts = st.lists(st.binary(max_size=8), max_size=2).map(_objects)
    integers = st.lists(st.integers(-3, 3), max_size=2).map(lambda each: np.array(each, np.int32))
    reals = st.lists(st.floats(width=32), max_size=3).map(lambda each: np.array(each, np.float32))
    flags = st.lists(st.booleans(), max_size=2).map(lambda each: np.array(each, np.bool_))
    return st.one_of(texts, integers, reals, flags)


def _objects(items: list[bytes]) -> Array:
    array = np.empty(len(items), dtype=np.object_)
    array[:] = items
    return array


@given(
    protocol=st.sampled_from(ForeignProtocol),
    changes=st.dictionaries(
        st.sampled_from(["text_output", "finish_reason", "num_input_tokens", "num_output_tokens"]),
        st.none() | wild_arrays(),
    ),
)
def test_a_wild_response_is_an_answer_or_a_typed_error(
    protocol: ForeignProtocol, changes: dict[str, Array | None]
) -> None:
    answer = vllm_answer() if protocol is ForeignProtocol.VLLM_BACKEND else tensorrt_answer()
    outputs = {name: array for name, array in {**answer, **changes}.items() if array is not None}
    try:
        piece = ADAPTERS[protocol].read_piece(outputs, Sampling())
    except ForeignAnswerError:
        return
    assert piece.output_tokens >= 0
    assert piece.input_tokens >= 0
    assert outputs["text_output"].ravel()[0].decode() == piece.text


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(st.text("0123456789ab", max_size=2), inner, max_size=3)


def logprobs(values: dict[int, float]) -> dict[str, Array]:
    told = [{str(token): {"logprob": value, "rank": 1, "decoded_token": "x"} for token, value in values.items()}]
    return {**vllm_answer(), "logprobs": text_array(json.dumps(told))}


def test_vllm_scores_what_is_among_the_most_probable() -> None:
    outputs = logprobs({0: math.log(0.25), 1: math.log(0.5), 2: math.log(0.125)})
    first, second = VLLM.read_scores(outputs, CHOICES, 0)
    assert (first.log_likelihood, second.log_likelihood) == (math.log(0.25), math.log(0.125))
    assert not first.is_greedy
    [best] = VLLM.read_scores(outputs, WireChoices(PROMPT, (1,)), 0)
    assert best.is_greedy
    with pytest.raises(ForeignUnsupportedError) as caught:
        VLLM.read_scores(outputs, WireChoices(PROMPT, (0, 9)), 0)
    assert (caught.value.reason, caught.value.metadata["missing"]) == ("FOREIGN_LOGPROB_MISSING", "1")


@pytest.mark.parametrize("values", [{0: 3.5, 2: 1.0}, {0: -0.1, 2: -0.2}, {0: math.nan, 2: -1.0}, {}])
def test_logits_are_not_taken_for_log_probabilities(values: dict[int, float]) -> None:
    with pytest.raises(ForeignAnswerError):
        VLLM.read_scores(logprobs(values), CHOICES, 0)


@given(st.text(max_size=20) | st.recursive(st.none() | st.floats() | st.text(max_size=3), nested).map(json.dumps))
def test_wild_log_probabilities_are_a_typed_error(text: str) -> None:
    outputs = {**vllm_answer(), "logprobs": text_array(text.encode("utf-8", "replace").decode())}
    with pytest.raises((ForeignAnswerError, ForeignUnsupportedError)):
        VLLM.read_scores(outputs, CHOICES, 0)


def test_tensorrt_scores_by_normalising_all_logits() -> None:
    outputs = {**tensorrt_answer(), "generation_logits": np.log(np.array([[[[1, 4, 3]]]], np.float32))}
    scores = TENSORRT.read_scores(outputs, CHOICES, 3)
    assert [each.log_likelihood for each in scores] == pytest.approx([math.log(1 / 8), math.log(3 / 8)], abs=1e-6)
    assert [each.is_greedy for each in TENSORRT.read_scores(outputs, WireChoices(PROMPT, (1, 2)), 3)] == [True, False]


@pytest.mark.parametrize(
    ("logits", "vocabulary_size"), [([0.0], 3), ([0.0, 1.0, 2.0, 0.0], 3), ([0.0, 1.0, 2.0], 0), (None, 3)]
)
def test_tensorrt_does_not_score_placeholders_or_padding(logits: list[float] | None, vocabulary_size: int) -> None:
    outputs = tensorrt_answer()
    if logits is not None:
        outputs["generation_logits"] = np.array(logits, np.float32)
    with pytest.raises(ForeignUnsupportedError) as caught:
        TENSORRT.read_scores(outputs, CHOICES, vocabulary_size)
    assert caught.value.reason == "FOREIGN_SCORING_UNSUPPORTED"


def test_a_model_with_other_tensors_is_told_what_differs() -> None:
    VLLM.check(VLLM_SHAPE)
    inputs = {name: kind for name, kind in VLLM_SHAPE.inputs.items() if name != "stream"}
    outputs = {**VLLM_SHAPE.outputs, "num_input_tokens": "TYPE_INT32"}
    with pytest.raises(ForeignModelMismatchError) as caught:
        VLLM.check(ModelShape(inputs, outputs, is_batched=False, is_decoupled=True))
    assert "input 'stream' is missing; output 'num_input_tokens' is TYPE_INT32, not TYPE_UINT32" in str(caught.value)
    with pytest.raises(ForeignModelMismatchError, match="decoupled"):
        VLLM.check(ModelShape(VLLM_SHAPE.inputs, VLLM_SHAPE.outputs, is_batched=False, is_decoupled=False))
    with pytest.raises(ForeignModelMismatchError, match="'max_tokens' is missing"):
        TENSORRT.check(VLLM_SHAPE)


def test_scoring_needs_tensors_of_its_own() -> None:
    old = {name: kind for name, kind in VLLM_SHAPE.inputs.items() if name != "return_logprobs"}
    shape = ModelShape(old, VLLM_SHAPE.outputs, is_batched=False, is_decoupled=True)
    for adapter in (VLLM, TENSORRT):
        with pytest.raises(ForeignUnsupportedError):
            adapter.scoring(CHOICES, shape)
    assert json.loads(VLLM.scoring(CHOICES, VLLM_SHAPE).inputs["sampling_parameters"][0])["logprobs"] == 20


def test_choices_are_named_up_to_vllms_limit() -> None:
    named = VLLM.scoring_by_name(CHOICES, VLLM_SHAPE)
    assert named is not None
    assert json.loads(named.inputs["sampling_parameters"][0])["logprob_token_ids"] == [0, 2]
    assert VLLM.scoring_by_name(WireChoices(PROMPT, tuple(range(129))), VLLM_SHAPE) is None
    assert TENSORRT.scoring_by_name(CHOICES, FLAT) is None
