"""Who had a model loaded, and what came of it, is written down, also when the call has ended before."""

from pathlib import Path

import pytest

from services.generation.errors import ModelFailedError
from services.generation.load_records import LoadRecords
from services.generation.registration import Registration
from services.runtime.calls import bind_ids
from services.runtime.errors import InvalidArgumentError
from services.runtime.security.audit import AuditLog
from tests.fakes.generation_domain import StartDomain
from tests.fakes.inference_backend import FakeInferenceBackend
from tests.unit.runtime.security.serving import audit_lines


@pytest.mark.parametrize(("proven", "fact"), [(True, "caller"), (False, "claimed_caller")])
async def test_loads_are_written_down_for_whom_they_were_begun(
    proven: bool, fact: str, start_domain: StartDomain, backend: FakeInferenceBackend, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    # Without the loop, which may begin a load before its call does.
    domain = await start_domain(reconcile=False, records=LoadRecords(AuditLog(path), callers_are_proven=proven))
    with bind_ids(caller="trainer", request_id="r-1"):
        record = await domain.registrar.create(Registration(str(checkpoint), "good"))
        backend.load_errors.append(InvalidArgumentError("no such architecture", reason="ENGINE_REFUSED"))
        with pytest.raises(ModelFailedError):
            await domain.registrar.create(Registration(str(checkpoint), "bad"))
    backend.loaded.clear()
    await domain.lifecycle.settle("bad", wait_seconds=60)
    loaded, failed, again = await audit_lines(path, 3)
    told = {"digest": record.digest, "request_id": "r-1", fact: "trainer"}
    assert {"event": "model_loaded", "model_id": "good", **told}.items() <= loaded.items()
    assert {"event": "model_load_failed", "model_id": "bad", "reason": "ENGINE_REFUSED"}.items() <= failed.items()
    assert failed[fact] == "trainer"
    assert (again["event"], again["model_id"], fact in again) == ("model_loaded", "bad", False)
