import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from services.generation.checkpoints import ContentDigests
from services.generation.errors import CheckpointPathError, ModelExistsError, ModelFailedError
from services.generation.models import ModelState
from services.generation.registration import ModelRegistrar, Registration, RegistrationRules
from services.runtime.deadlines import bind_deadline
from services.runtime.errors import DeadlineExceededError, FailedPreconditionError, InvalidArgumentError
from tests.fakes.generation_domain import Domain, StartDomain, register_in_a_hurry
from tests.fakes.inference_backend import write_checkpoint


async def test_a_registered_checkpoint_is_loaded_and_described(domain: Domain, checkpoint: Path) -> None:
    record = await domain.registrar.create(Registration(str(checkpoint), "m"))
    assert record.state is ModelState.READY
    assert record.deployment.name in domain.backend.loaded
    assert (record.model_id, record.checkpoint_path) == ("m", str(checkpoint))
    assert (record.architecture, record.dtype, record.context_tokens) == ("LlamaForCausalLM", "float32", 64)
    assert record.weight_bytes == (checkpoint / "model.safetensors").stat().st_size
    assert len(record.digest) == 64


async def test_without_an_id_the_folder_and_its_content_give_one(domain: Domain, checkpoint: Path) -> None:
    record = await domain.registrar.create(Registration(str(checkpoint)))
    assert record.model_id == f"step-1-{record.digest[:8]}"
    assert (await domain.registrar.create(Registration(str(checkpoint)))).model_id == record.model_id
    write_checkpoint(checkpoint, content="trained on")
    assert (await domain.registrar.create(Registration(str(checkpoint)))).model_id != record.model_id


async def test_the_same_content_under_an_id_is_the_model_that_exists(domain: Domain, checkpoint: Path) -> None:
    first = await domain.registrar.create(Registration(str(checkpoint), "m"))
    copy = shutil.copytree(checkpoint, checkpoint.parent / "copy")
    assert await domain.registrar.create(Registration(str(checkpoint), "m")) == first
    assert await domain.registrar.create(Registration(str(copy), "m", dtype="float32")) == first
    assert domain.backend.loads == [first.deployment.name]


@pytest.mark.parametrize("change", ["content", "dtype"])
async def test_other_content_under_a_used_id_is_refused(domain: Domain, checkpoint: Path, change: str) -> None:
    first = await domain.registrar.create(Registration(str(checkpoint), "m"))
    if change == "content":
        other = Registration(str(write_checkpoint(checkpoint.parent / "b", content="other")), "m")
    else:
        other = Registration(str(checkpoint), "m", dtype="bfloat16")
    with pytest.raises(ModelExistsError) as caught:
        await domain.registrar.create(other)
    assert caught.value.metadata["digest"] == first.digest
    assert first.digest in caught.value.message
    assert domain.registry.records() == (first,)


async def test_two_ids_may_have_the_same_content(domain: Domain, checkpoint: Path) -> None:
    first = await domain.registrar.create(Registration(str(checkpoint), "a"))
    second = await domain.registrar.create(Registration(str(checkpoint), "b"))
    assert first.digest == second.digest
    assert set(domain.backend.loaded) == {first.deployment.name, second.deployment.name}
    await domain.lifecycle.delete("a")
    assert set(domain.backend.loaded) == {second.deployment.name}


async def test_concurrent_requests_for_one_checkpoint_make_one_model(domain: Domain, checkpoint: Path) -> None:
    requests = [Registration(str(checkpoint), "m") for _ in range(5)] + [Registration(str(checkpoint), None)] * 3
    records = await asyncio.gather(*(domain.registrar.create(each) for each in requests))
    assert len({record.model_id for record in records}) == 2
    assert len(domain.backend.loads) == 2


async def test_a_repeated_request_id_returns_the_first_model_even_after_a_restart(
    start_domain: StartDomain, checkpoint: Path
) -> None:
    request = Registration(str(checkpoint), None, request_id="11111111-1111-1111-1111-111111111111")
    domain = await start_domain()
    first = await domain.registrar.create(request)
    domain = await start_domain()
    # The folder has new content by now, which a request of its own would register.
    write_checkpoint(checkpoint, content="trained on")
    assert (await domain.registrar.create(request)).model_id == first.model_id
    with pytest.raises(InvalidArgumentError) as caught:
        await domain.registrar.create(replace(request, model_id="other"))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    await domain.lifecycle.delete(first.model_id)
    assert (await domain.registrar.create(request)).model_id != first.model_id


async def test_a_slow_load_is_returned_loading_and_goes_on(domain: Domain, checkpoint: Path) -> None:
    domain.backend.load_gate = asyncio.Event()
    record = await register_in_a_hurry(domain, Registration(str(checkpoint), "m"))
    assert record.state is ModelState.LOADING
    domain.backend.load_gate.set()
    assert (await domain.lifecycle.ready("m")).record.state is ModelState.READY


async def test_a_server_that_is_down_leaves_the_model_loading(domain: Domain, checkpoint: Path) -> None:
    domain.backend.kill()
    record = await register_in_a_hurry(domain, Registration(str(checkpoint), "m"))
    assert record.state is ModelState.LOADING
    domain.backend.is_up = True
    assert (await domain.lifecycle.ready("m")).record.digest != ""


async def test_a_refused_load_is_reported_kept_and_tried_again_on_request(domain: Domain, checkpoint: Path) -> None:
    domain.backend.load_errors.append(FailedPreconditionError("no such\narchitecture", reason="MODEL_LOAD_FAILED"))
    with pytest.raises(ModelFailedError, match="no such architecture"):
        await domain.registrar.create(Registration(str(checkpoint), "m"))
    assert domain.lifecycle.get("m").state is ModelState.FAILED
    assert domain.lifecycle.get("m").failure == "no such architecture"
    with pytest.raises(ModelFailedError):
        await domain.lifecycle.ready("m")
    record = await domain.registrar.create(Registration(str(checkpoint), "m"))
    assert (record.state, record.failure) == (ModelState.READY, "")


async def test_a_failed_model_may_go_on_from_a_copy(domain: Domain, checkpoint: Path) -> None:
    domain.backend.load_errors.append(FailedPreconditionError("no memory"))
    with pytest.raises(ModelFailedError):
        await domain.registrar.create(Registration(str(checkpoint), "m"))
    copy = shutil.move(checkpoint, checkpoint.parent / "moved")
    record = await domain.registrar.create(Registration(str(copy), "m"))
    assert (record.state, record.checkpoint_path) == (ModelState.READY, str(copy))


async def test_a_bad_checkpoint_leaves_nothing_behind(domain: Domain, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(FailedPreconditionError):
        await domain.registrar.create(Registration(str(checkpoint), "m"))
    with pytest.raises(CheckpointPathError):
        await domain.registrar.create(Registration("/nowhere", "m"))
    assert domain.registry.records() == ()


async def test_files_that_change_while_they_are_loaded_fail_the_model(domain: Domain, checkpoint: Path) -> None:
    domain.backend.on_load = [checkpoint / "config.json"]
    with pytest.raises(ModelFailedError, match="changed"):
        await domain.registrar.create(Registration(str(checkpoint), "m"))
    assert domain.backend.loaded == {}


async def test_a_trainers_own_files_may_change_meanwhile(domain: Domain, checkpoint: Path) -> None:
    (checkpoint / "trainer_state.json").write_text("{}")
    domain.backend.on_load = [checkpoint / "trainer_state.json"]
    assert (await domain.registrar.create(Registration(str(checkpoint), "m"))).state is ModelState.READY


async def test_a_caller_without_time_to_hash_is_told_what_to_do(domain: Domain, checkpoint: Path) -> None:
    with bind_deadline(0.0), pytest.raises(DeadlineExceededError, match="model_id"):
        await domain.registrar.create(Registration(str(checkpoint)))


@pytest.mark.parametrize(("auto_dtype", "expected"), [("float32", "float32"), ("checkpoint", "bfloat16")])
async def test_auto_means_what_the_fleet_is_set_to(
    domain: Domain, checkpoint: Path, auto_dtype: str, expected: str
) -> None:
    rules = RegistrationRules([domain.root], auto_dtype=auto_dtype)  # type: ignore[arg-type]
    registrar = ModelRegistrar(domain.registry, domain.lifecycle, domain.registrar._digests, rules)
    assert (await registrar.create(Registration(str(checkpoint)))).dtype == expected
    assert (await registrar.create(Registration(str(checkpoint), dtype="float16"))).dtype == "float16"


async def test_an_unknown_number_type_of_the_checkpoint_falls_back(domain: Domain, checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"architectures": ["L"], "dtype": "float8_e4m3fn"}))
    rules = RegistrationRules([domain.root], auto_dtype="checkpoint")
    registrar = ModelRegistrar(domain.registry, domain.lifecycle, domain.registrar._digests, rules)
    assert (await registrar.create(Registration(str(checkpoint)))).dtype == "float32"


@pytest.mark.parametrize("auto_engine", ["transformers", "vllm"])
async def test_the_engine_is_the_callers_or_the_services(domain: Domain, checkpoint: Path, auto_engine: str) -> None:
    rules = RegistrationRules([domain.root], auto_engine=auto_engine)  # type: ignore[arg-type]
    registrar = ModelRegistrar(domain.registry, domain.lifecycle, ContentDigests(), rules)
    record = await registrar.create(Registration(str(checkpoint)))
    assert (record.engine, record.deployment.engine) == (auto_engine, auto_engine)
    assert (await registrar.create(Registration(str(checkpoint), "other", engine="vllm"))).engine == "vllm"


async def test_a_model_keeps_its_engine(domain: Domain, checkpoint: Path) -> None:
    await domain.registrar.create(Registration(str(checkpoint), "m"))
    with pytest.raises(ModelExistsError, match="engine transformers"):
        await domain.registrar.create(Registration(str(checkpoint), "m", engine="vllm"))
