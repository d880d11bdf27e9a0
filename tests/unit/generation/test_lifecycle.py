import asyncio
import shutil
from pathlib import Path

import pytest

from services.generation.checkpoints import read_checkpoint
from services.generation.errors import (
    ModelControlRefusedError,
    ModelDeletedError,
    ModelFailedError,
    ModelLostError,
    ModelNotReadyError,
)
from services.generation.models import ModelState
from services.generation.registration import Registration
from services.runtime.deadlines import bind_deadline
from services.runtime.errors import FleetError, NotFoundError
from tests.fakes.generation_domain import Domain, StartDomain, register_in_a_hurry
from tests.fakes.inference_backend import FakeInferenceBackend, write_checkpoint
from tests.patience import GROWING_SECONDS, LONGEST_WAIT_SECONDS

LOST = ModelLostError("gone")


async def test_unknown_models_suggest_the_nearest_name(domain: Domain, checkpoint: Path) -> None:
    await domain.registrar.create(Registration(str(checkpoint), "step-1200"))
    for ask in (domain.lifecycle.ready("step-120"), domain.lifecycle.delete("step-120")):
        with pytest.raises(NotFoundError, match="did you mean 'step-1200'") as caught:
            await ask
        assert caught.value.reason == "MODEL_NOT_FOUND"


async def test_a_restarted_service_finds_its_models_loaded(start_domain: StartDomain, checkpoint: Path) -> None:
    domain = await start_domain()
    first = await domain.registrar.create(Registration(str(checkpoint), "m"))
    shutil.rmtree(checkpoint)  # what is loaded needs its files no more
    domain = await start_domain()
    assert (await domain.lifecycle.ready("m")).record == first
    assert domain.backend.loads == [first.deployment.name]


async def test_models_that_a_server_lost_while_the_service_was_away_are_loaded_again(
    start_domain: StartDomain, checkpoint: Path
) -> None:
    domain = await start_domain()
    first = await domain.registrar.create(Registration(str(checkpoint), "m"))
    domain.backend.loaded.clear()
    domain.backend.loading.clear()
    domain = await start_domain()
    await domain.backend.loading.wait()
    assert (await domain.lifecycle.settle("m", wait_seconds=LONGEST_WAIT_SECONDS)).state is ModelState.READY
    assert domain.backend.loads == [first.deployment.name] * 2


async def test_the_loop_notices_a_lost_model_without_any_request(domain: Domain, checkpoint: Path) -> None:
    record = await domain.registrar.create(Registration(str(checkpoint), "m"))
    domain.backend.kill()
    domain.backend.loading.clear()
    domain.backend.is_up = True
    await domain.backend.loading.wait()
    assert (await domain.lifecycle.settle("m", wait_seconds=LONGEST_WAIT_SECONDS)).state is ModelState.READY
    assert record.deployment.name in domain.backend.loaded


async def test_a_model_that_appears_while_the_loop_looks_is_loaded_once(
    start_domain: StartDomain, checkpoint: Path, backend: FakeInferenceBackend
) -> None:
    gate = backend.list_gate = asyncio.Event()
    domain = await start_domain()
    await backend.until(lambda: backend.lists == 1)
    with bind_deadline(20.0):
        await domain.registrar.create(Registration(str(checkpoint), "m"))
    gate.set()
    seen = backend.lists
    await backend.until(lambda: backend.lists >= seen + 2)
    assert len(backend.loads) == 1
    assert backend.load_deadlines == [None]  # loading outlives the call that asked for it


async def test_a_load_that_a_crash_interrupted_is_finished_by_the_next_service(
    start_domain: StartDomain, checkpoint: Path
) -> None:
    domain = await start_domain()
    gate = domain.backend.load_gate = asyncio.Event()
    await register_in_a_hurry(domain, Registration(str(checkpoint), "m"))
    await domain.backend.loading.wait()
    domain = await start_domain(reconcile=False)
    assert domain.lifecycle.get("m").state is ModelState.LOADING
    gate.set()
    assert (await domain.lifecycle.ready("m")).record.state is ModelState.READY


async def test_a_checkpoint_that_is_gone_or_another_when_it_is_needed_again_fails(
    start_domain: StartDomain, checkpoint: Path
) -> None:
    domain = await start_domain(reconcile=False)
    changed = write_checkpoint(checkpoint.parent / "changed")
    await domain.registrar.create(Registration(str(checkpoint), "gone"))
    await domain.registrar.create(Registration(str(changed), "changed"))
    shutil.rmtree(checkpoint)
    write_checkpoint(changed, content="trained on")
    domain.backend.loaded.clear()
    for model_id, failure in (("gone", "there is no folder"), ("changed", "was changed")):
        domain.lifecycle.report_lost(await domain.lifecycle.ready(model_id), LOST)
        with pytest.raises(ModelFailedError, match=failure):
            await domain.lifecycle.ready(model_id)
    assert domain.backend.loaded == {}


async def test_files_that_were_written_again_with_the_same_content_are_fine(
    start_domain: StartDomain, checkpoint: Path
) -> None:
    domain = await start_domain(reconcile=False)
    await domain.registrar.create(Registration(str(checkpoint), "m"))
    write_checkpoint(checkpoint)
    domain.lifecycle.report_lost(await domain.lifecycle.ready("m"), LOST)
    model = await domain.lifecycle.ready("m")
    assert len(domain.backend.loads) == 2
    assert model.record.fingerprint != ()


async def test_waiting_requests_get_unavailable_before_their_deadline(
    start_domain: StartDomain, checkpoint: Path
) -> None:
    domain = await start_domain(reconcile=False)
    await domain.registrar.create(Registration(str(checkpoint), "m"))
    domain.backend.kill()
    domain.lifecycle.report_lost(await domain.lifecycle.ready("m"), LOST)
    for seconds in GROWING_SECONDS:
        with bind_deadline(seconds), pytest.raises(ModelNotReadyError) as caught:
            await domain.lifecycle.ready("m")
        if caught.value.reason != "MODEL_LOADING":  # it was tried in that time
            break
    assert caught.value.reason == "INFERENCE_UNAVAILABLE"
    assert caught.value.retry_after_seconds
    domain.backend.load_gate = asyncio.Event()
    domain.backend.loading.clear()
    domain.backend.is_up = True
    await domain.backend.loading.wait()
    with bind_deadline(0.2), pytest.raises(ModelNotReadyError) as caught:
        await domain.lifecycle.ready("m")
    assert caught.value.reason == "MODEL_LOADING"
    domain.backend.load_gate.set()
    assert (await domain.lifecycle.ready("m")).record.state is ModelState.READY


async def test_waiting_is_bounded_without_a_deadline_too(start_domain: StartDomain, checkpoint: Path) -> None:
    domain = await start_domain(reconcile=False, ready_wait_seconds=0.1)
    await domain.registrar.create(Registration(str(checkpoint), "m"))
    domain.backend.kill()
    domain.lifecycle.report_lost(await domain.lifecycle.ready("m"), LOST)
    with pytest.raises(ModelNotReadyError):
        await domain.lifecycle.ready("m")


async def test_many_reports_of_one_loss_reload_once_and_late_ones_not_at_all(
    start_domain: StartDomain, checkpoint: Path
) -> None:
    domain = await start_domain(reconcile=False)
    record = await domain.registrar.create(Registration(str(checkpoint), "m"))
    before = await domain.lifecycle.ready("m")
    crash = ModelLostError("dead", engine_crashed=True)
    for _ in range(3):
        domain.lifecycle.report_lost(before, crash)
    after = await domain.lifecycle.ready("m")
    domain.lifecycle.report_lost(before, crash)
    assert await domain.lifecycle.ready("m") == after
    assert domain.backend.unloads == [record.deployment.name]
    assert len(domain.backend.loads) == 2


async def test_a_model_that_takes_the_server_down_fails_instead_of_looping(domain: Domain, checkpoint: Path) -> None:
    domain.backend.load_errors = [ModelLostError("connection reset") for _ in range(3)]
    with pytest.raises(ModelFailedError, match="went away 3 times"):
        await domain.registrar.create(Registration(str(checkpoint), "m"))


async def test_a_server_that_goes_away_once_while_loading_is_forgiven(domain: Domain, checkpoint: Path) -> None:
    domain.backend.load_errors = [ModelLostError("connection reset")]
    assert (await domain.registrar.create(Registration(str(checkpoint), "m"))).state is ModelState.READY


async def test_a_server_that_refuses_control_is_no_fault_of_the_model(
    start_domain: StartDomain, checkpoint: Path
) -> None:
    domain = await start_domain(reconcile=False)
    domain.backend.load_errors = [ModelControlRefusedError()]
    with pytest.raises(ModelControlRefusedError):
        await domain.registrar.create(Registration(str(checkpoint), "m"))
    assert domain.lifecycle.get("m").state is ModelState.LOADING
    assert (await domain.lifecycle.ready("m")).record.state is ModelState.READY


async def test_one_failing_model_does_not_keep_the_loop_from_the_next(
    start_domain: StartDomain, checkpoint: Path
) -> None:
    domain = await start_domain(reconcile=False)
    await domain.registrar.create(Registration(str(checkpoint), "a"))
    await domain.registrar.create(Registration(str(checkpoint), "b"))
    domain.backend.loaded.clear()
    domain.backend.load_errors = [ModelControlRefusedError()]
    domain = await start_domain()
    await domain.backend.until(lambda: len(domain.backend.loaded) == 2)


async def test_a_deleted_model_is_unloaded_and_forgotten(domain: Domain, checkpoint: Path) -> None:
    await domain.registrar.create(Registration(str(checkpoint), "m"))
    await domain.lifecycle.delete("m")
    assert domain.backend.loaded == {}
    assert domain.registry.records() == ()
    assert read_checkpoint(str(checkpoint), [domain.root])
    with pytest.raises(NotFoundError):
        await domain.lifecycle.delete("m")


async def test_deleting_needs_the_server(domain: Domain, checkpoint: Path) -> None:
    record = await domain.registrar.create(Registration(str(checkpoint), "m"))
    domain.backend.is_up = False
    with pytest.raises(ModelLostError) as caught:
        await domain.lifecycle.delete("m")
    assert caught.value.retry_after_seconds
    assert domain.lifecycle.records() == [record]
    domain.backend.is_up = True
    await domain.lifecycle.delete("m")


async def test_a_delete_that_cannot_be_done_leaves_those_who_wait_alone(domain: Domain, checkpoint: Path) -> None:
    await domain.registrar.create(Registration(str(checkpoint), "m"))
    domain.backend.kill()
    domain.lifecycle.report_lost(await domain.lifecycle.ready("m"), LOST)
    waiting = asyncio.create_task(domain.lifecycle.ready("m"))
    await asyncio.sleep(0)
    with pytest.raises(ModelLostError):
        await domain.lifecycle.delete("m")
    domain.backend.is_up = True
    assert (await waiting).record.state is ModelState.READY


async def test_deleting_while_loading_ends_the_wait_and_leaves_no_orphan(domain: Domain, checkpoint: Path) -> None:
    domain.backend.load_gate = asyncio.Event()
    creating = asyncio.create_task(domain.registrar.create(Registration(str(checkpoint), "m")))
    await domain.backend.loading.wait()
    deployment = domain.lifecycle.get("m").deployment
    await domain.lifecycle.delete("m")
    with pytest.raises(FleetError) as caught:
        await creating
    assert isinstance(caught.value, ModelDeletedError)
    # A real server finishes a load whose caller has left.
    unloaded = len(domain.backend.unloads)
    domain.backend.loaded[deployment.name] = deployment
    await domain.backend.until(lambda: len(domain.backend.unloads) > unloaded)
    assert domain.backend.loaded == {}


async def test_a_deleted_id_can_be_used_for_other_content(domain: Domain, checkpoint: Path) -> None:
    first = await domain.registrar.create(Registration(str(checkpoint), "m"))
    await domain.lifecycle.delete("m")
    other = write_checkpoint(checkpoint.parent / "b", content="other")
    second = await domain.registrar.create(Registration(str(other), "m"))
    assert second.digest != first.digest
    assert set(domain.backend.loaded) == {second.deployment.name}
