import json

from hypothesis import given
from hypothesis import strategies as st

from services.inference.failures import MARKER, InferenceFailure, decode_failure, encode_failure


@given(
    st.text(),
    st.from_regex(r"[A-Z][A-Z_]*", fullmatch=True),
    st.dictionaries(st.text(), st.text(), max_size=3),
    st.none() | st.text(),
)
def test_a_failure_survives_what_triton_wraps_around_it(
    message: str, reason: str, metadata: dict[str, str], field: str | None
) -> None:
    failure = InferenceFailure(message, reason=reason, code="NOT_FOUND", metadata=metadata, field=field)
    text = encode_failure(failure)
    assert "\n" not in text
    assert text.isascii()
    read = decode_failure(
        f"load failed for model 'm': Internal: TritonModelException: {text}\n\nAt:\n  model.py(9): x\n;"
    )
    assert read is not None
    assert (read.message, read.reason, read.code, read.metadata, read.field) == (
        message,
        reason,
        "NOT_FOUND",
        metadata,
        field,
    )


@given(st.text() | st.recursive(st.integers() | st.text(), lambda c: st.dictionaries(st.text(), c)).map(json.dumps))
def test_a_damaged_failure_is_none(text: str) -> None:
    assert decode_failure(MARKER + text) is None
    assert decode_failure(text) is None
