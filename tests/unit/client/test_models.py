import os
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from evalfleet import models
from evalfleet.errors import ModelLoadError
from evalfleet.fleet import Fleet
from evalfleet.generation.v1 import model_pb2
from evalfleet.results import Model, ModelState

from tests.fakes.fleet import FakeFleet


@pytest.fixture(autouse=True)
def poll_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalfleet.models._POLL_SECONDS", 0.0)


def test_a_folder_is_registered_by_its_absolute_path(
    fake: FakeFleet, fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = fleet.models.add("step-100", model_id="mine", dtype="float32", engine="vllm")
    (request,) = fake.models.requests
    assert request.checkpoint_path == os.path.join(tmp_path, "step-100")
    assert (request.model_id, request.dtype, request.engine) == ("mine", "float32", "vllm")
    assert len(request.request_id) == 36
    assert (model.name, model.state) == ("models/mine", ModelState.READY)


def test_a_foreign_model_is_told_by_where_it_is(fake: FakeFleet, fleet: Fleet) -> None:
    model = fleet.models.connect("llm:8001", "llama", protocol="vllm-backend", hub="organization/name", revision="w1")
    (request,) = fake.models.requests
    assert request.foreign == model_pb2.ForeignTriton(
        target="llm:8001", model_name="llama", protocol=model_pb2.FOREIGN_PROTOCOL_VLLM_BACKEND, revision="w1"
    )
    assert (request.checkpoint_path, request.hub.repo_id) == ("", "organization/name")
    assert not request.HasField("dtype")
    assert model.foreign == "llm:8001/llama"


def test_loading_is_waited_for(fake: FakeFleet, fleet: Fleet) -> None:
    fake.models.loading_polls = 3
    seen: list[Model] = []
    model = fleet.models.add("x", on_state=seen.append)
    assert [each.state for each in seen] == [ModelState.LOADING] * 3
    assert model.state is ModelState.READY


def test_a_model_that_cannot_be_loaded_says_why(fake: FakeFleet, fleet: Fleet) -> None:
    fake.models.loading_polls = 1
    fake.models.final_state = model_pb2.MODEL_STATE_FAILED
    fake.models.failure = "no safetensors in the folder"
    with pytest.raises(ModelLoadError, match="could not be loaded: no safetensors in the folder") as caught:
        fleet.models.add("x")
    assert caught.value.reason == "MODEL_FAILED"


def test_the_wait_for_loading_is_bounded(fake: FakeFleet, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.models.loading_polls = 1_000_000
    clock = count(0.0, 25.0)
    monkeypatch.setattr(models, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _seconds: None))
    with pytest.raises(ModelLoadError, match="still loading after 60 s") as caught:
        fleet.models.add("x", timeout_seconds=60)
    assert caught.value.reason == "MODEL_LOADING"


def test_all_pages_are_listed(fake: FakeFleet, fleet: Fleet) -> None:
    for number in range(5):
        fake.models.put(f"m{number}")
    fake.models.page_size = 2
    assert [each.name for each in fleet.models.list()] == [f"models/m{number}" for number in range(5)]


def test_names_may_be_short_or_full(fake: FakeFleet, fleet: Fleet) -> None:
    fake.models.put("step-100")
    assert fleet.models.get("step-100") == fleet.models.get("models/step-100")
    fleet.models.remove("step-100")
    assert fleet.models.list() == ()


def test_a_state_of_a_newer_service_is_unknown_and_not_ready(fake: FakeFleet, fleet: Fleet) -> None:
    fake.models.put("m").state = 99  # type: ignore[assignment]
    assert fleet.models.get("m").state is ModelState.UNKNOWN
