import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.failures import InferenceFailure
from services.inference.sampling import SamplingParameters, check_sampling_parameters, parse_sampling_parameters

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


def test_absent_parameters_take_the_defaults_of_vllm() -> None:
    assert parse_sampling_parameters("") == SamplingParameters(max_tokens=16, temperature=1.0, top_p=1.0)
    assert parse_sampling_parameters('{"seed": null, "stop": null}') == SamplingParameters()


def test_written_parameters_are_read_back() -> None:
    sampling = SamplingParameters(
        max_tokens=7, temperature=0.5, top_p=0.9, top_k=3, min_p=0.1, min_tokens=2, seed=-4, stop=("\n", "é"),
        stop_token_ids=(5,), include_stop_str_in_output=True, ignore_eos=True, skip_special_tokens=False,
    )  # fmt: skip
    assert parse_sampling_parameters(sampling.to_json()) == sampling


def test_only_what_differs_from_the_defaults_is_sent() -> None:
    assert json.loads(SamplingParameters(max_tokens=16, top_k=4).to_json()) == {"max_tokens": 16, "top_k": 4}


def test_a_single_stop_text_needs_no_list() -> None:
    assert parse_sampling_parameters('{"stop": "END"}').stop == ("END",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", True),
        ("max_tokens", 1.5),
        ("max_tokens", 10**9),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("temperature", 10**400),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 2),
        ("min_tokens", 17),
        ("seed", 1 << 63),
        ("stop", [""]),
        ("stop", [3]),
        ("stop", {"a": 1}),
        ("stop", ["x"] * 65),
        ("stop_token_ids", [-1]),
        ("ignore_eos", 1),
    ],
)
def test_an_absurd_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InferenceFailure) as caught:
        parse_sampling_parameters(json.dumps({name: value}))
    assert caught.value.reason == "INVALID_SAMPLING_PARAMETERS"
    assert caught.value.metadata["parameter"] == name
    assert caught.value.code == "INVALID_ARGUMENT"


def test_an_unknown_parameter_suggests_the_nearest() -> None:
    with pytest.raises(InferenceFailure, match="did you mean 'temperature'"):
        parse_sampling_parameters('{"temprature": 1}')


@pytest.mark.parametrize("text", ["{", "[]", "3", '"x"', "[" * 100_000, '{"seed": ' + "1" * 5000 + "}"])
def test_anything_but_a_json_object_is_refused(text: str) -> None:
    with pytest.raises(InferenceFailure, match="JSON"):
        parse_sampling_parameters(text)


@given(st.dictionaries(st.sampled_from([*SamplingParameters.__slots__, "x"]), json_values, max_size=4))
def test_wild_parameters_are_read_or_refused(values: dict[str, Any]) -> None:
    try:
        sampling = parse_sampling_parameters(json.dumps(values))
    except InferenceFailure:
        return
    assert check_sampling_parameters(sampling) is sampling
