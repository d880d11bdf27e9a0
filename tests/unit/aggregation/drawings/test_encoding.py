"""What is written into the ledger comes back as it was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.aggregation.drawings.encoding import (
    decode_floats,
    decode_history,
    decode_positions,
    decode_spec,
    decode_texts,
    encode_floats,
    encode_history,
    encode_positions,
    encode_spec,
    encode_texts,
)
from services.aggregation.drawings.records import DrawingSpec, PastResults
from services.aggregation.sequential.questions import Direction, GateRule, PrecisionRule, RareRule

ALPHAS = st.floats(1e-9, 0.5)
QUESTIONS = st.one_of(
    st.builds(GateRule, st.floats(0, 1), st.sampled_from(Direction), ALPHAS, ALPHAS),
    st.builds(PrecisionRule, st.floats(0.001, 0.5), ALPHAS),
    st.builds(RareRule, st.floats(0.001, 0.9), ALPHAS, ALPHAS),
)
NAMES = st.text(min_size=1, max_size=20)
SPECS = st.builds(
    DrawingSpec,
    run=NAMES,
    task=NAMES,
    metric=NAMES,
    seed=st.integers(-(2**63), 2**63 - 1),
    model=NAMES,
    model_digest=NAMES,
    data_digest=NAMES,
    questions=st.lists(QUESTIONS, max_size=4).map(tuple),
    samples=st.integers(1, 9),
    has_binary_scores=st.booleans(),
    uses_history=st.booleans(),
    previous_run=st.text(max_size=5),
    history_runs=st.lists(NAMES, max_size=3).map(tuple),
    interval_alpha=ALPHAS,
)


@given(spec=SPECS)
def test_a_spec(spec: DrawingSpec) -> None:
    assert decode_spec(encode_spec(spec)) == spec


@given(texts=st.lists(st.text()))
def test_texts(texts: list[str]) -> None:
    assert decode_texts(encode_texts(texts)) == tuple(texts)


@pytest.mark.parametrize("values", [None, np.array([0.1, 1.0, 3e-9], np.float32), np.empty(0, np.float32)])
def test_numbers_to_the_last_bit(values: NDArray[np.float32] | None) -> None:
    found = decode_floats(encode_floats(values))
    assert (found is None) == (values is None)
    assert values is None or (found is not None and found.tobytes() == values.tobytes())


def test_positions() -> None:
    assert decode_positions(encode_positions(np.array([3, 0, 2**31 - 1]))).tolist() == [3, 0, 2**31 - 1]


@pytest.mark.parametrize("scores", [[[0.0, 1.0, np.nan]], [[0.0, 1 / 3, np.nan], [1.0, 1.0, 0.25]]])
@pytest.mark.parametrize("is_predicted", [False, True])
@pytest.mark.parametrize("is_sequence", [False, True])
def test_a_history(scores: list[list[float]], *, is_predicted: bool, is_sequence: bool) -> None:
    predicted = np.full((len(scores), 3), np.nan)
    predicted[-1, 2] = np.float32(0.7)
    runs = tuple(f"runs/{index}" for index in range(len(scores)))
    past = PastResults(runs, np.array(scores), predicted if is_predicted else None, is_sequence=is_sequence)
    found = decode_history(encode_history(past), runs, 3)
    assert found is not None
    assert (found.runs, found.is_sequence) == (runs, is_sequence)
    np.testing.assert_array_equal(found.scores, past.scores)
    assert (found.predicted is None) == (not is_predicted)
    if found.predicted is not None:
        np.testing.assert_array_equal(found.predicted, predicted)


def test_no_history() -> None:
    assert decode_history(encode_history(None), (), 3) is None
