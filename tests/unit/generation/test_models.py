from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from services.generation.models import MODEL_ID, ModelRecord, ModelState, default_model_id
from services.inference.repository import check_model_name

DIGEST = "0123456789abcdef" * 4


@given(st.text(max_size=300))
def test_every_folder_name_gives_a_valid_id_that_ends_in_the_digest(name: str) -> None:
    model_id = default_model_id(name, DIGEST)
    assert MODEL_ID.fullmatch(model_id)
    assert model_id.endswith("-01234567")


def test_a_folder_name_is_kept_readable() -> None:
    assert default_model_id("Step 1200", DIGEST) == "step-1200-01234567"
    assert default_model_id("..", DIGEST) == "model-01234567"


@given(st.from_regex(MODEL_ID, fullmatch=True))
def test_deployment_names_are_safe_and_tell_ids_and_contents_apart(model_id: str) -> None:
    record = ModelRecord(
        model_id, "/c", DIGEST, ModelState.READY, "", "LlamaForCausalLM", "float32", 0, 0, datetime.now(UTC)
    )
    assert check_model_name(record.deployment.name)
    others = {replace(record, model_id=model_id + "2"), replace(record, digest=DIGEST[::-1])}
    assert record.deployment.name not in {other.deployment.name for other in others}
