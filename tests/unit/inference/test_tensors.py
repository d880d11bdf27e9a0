from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from services.inference.tensors import (
    flag_array,
    read_request,
    read_response,
    text_array,
    write_request,
    write_response,
)

numbers = st.sampled_from([np.bool_, np.uint32, np.int64, np.float32, np.float64]).flatmap(
    lambda kind: npst.arrays(kind, npst.array_shapes(min_dims=1, max_dims=3, max_side=4))
)


@given(st.dictionaries(st.text(min_size=1, max_size=8), numbers, max_size=3), st.lists(st.text(), max_size=5))
def test_tensors_survive_the_wire(arrays: dict[str, Any], values: list[str]) -> None:
    inputs = {**arrays, "texts": text_array(*values)}
    request = type(write_request("m", "1", inputs)).FromString(write_request("m", "1", inputs).SerializeToString())
    for read in (read_request(request), read_response(write_response("m", "1", inputs))):
        assert list(read) == list(inputs)
        for name, array in inputs.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)


def test_a_request_names_model_types_and_shapes() -> None:
    request = write_request("m", "id", {"flag": flag_array(True), "texts": text_array("a", "é").reshape(2, 1)})
    assert (request.model_name, request.id) == ("m", "id")
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        ("flag", "BOOL", [1]),
        ("texts", "BYTES", [2, 1]),
    ]


def test_truncated_contents_are_an_error() -> None:
    request = write_request("m", "1", {"x": np.arange(4, dtype=np.float32)})
    request.raw_input_contents[0] = b"abc"
    with pytest.raises(ValueError, match="buffer size"):
        read_request(request)
