import ast
import sys
from pathlib import Path
from typing import Any

import evalfleet
import grpc
import pytest
from evalfleet import errors
from evalfleet.connections import Connection
from evalfleet.errors import EvalFleetError, InternalError, NotFoundError, UnavailableError, UnimplementedError
from evalfleet.fleet import Fleet
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc

from tests.fakes.fleet import FakeFleet
from tests.fakes.refusing import fail


def test_the_services_reason_and_metadata_arrive(fleet: Fleet) -> None:
    with pytest.raises(NotFoundError) as caught:
        fleet.models.get("stepp-100")
    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert caught.value.metadata == {"name": "models/stepp-100"}
    assert "did you mean 'step-100'" in caught.value.explanation()


def test_invalid_fields_are_listed_beneath_the_message(
    fake: FakeFleet, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_request: object, context: grpc.ServicerContext) -> None:
        fail(
            context,
            grpc.StatusCode.INVALID_ARGUMENT,
            "two fields are wrong",
            reason="BAD_RUN",
            violations={"concurrency": "must be 1 to 1024", "tasks[0]": "no such task"},
        )

    monkeypatch.setattr(fake.evaluation, "CreateRun", refuse)
    fake.stop()
    fake.start()
    with pytest.raises(errors.InvalidArgumentError) as caught:
        fleet.runs.start(model="m", suite="demo")
    assert caught.value.explanation().splitlines() == [
        "two fields are wrong",
        "  concurrency: must be 1 to 1024",
        "  tasks[0]: no such task",
    ]


def test_a_field_that_the_message_explains_is_not_repeated() -> None:
    violation = errors.FieldViolation("checkpoint_path", "'x' is no folder")
    error = errors.InvalidArgumentError("'x' is no folder", field_violations=[violation], retry_after_seconds=2.2)
    assert error.explanation() == "'x' is no folder\n  try again in 2 s"


def test_an_unreachable_service_is_named_with_what_to_do(fake: FakeFleet, fleet: Fleet) -> None:
    fake.stop()
    with pytest.raises(UnavailableError) as caught:
        fleet.suites.list()
    assert str(caught.value) == (
        f"the evaluation service at {fake.target} cannot be reached; is the fleet running? "
        "`evalfleet up` starts one on this machine"
    )


def test_a_foreign_server_is_not_mistaken_for_ours(fake: FakeFleet) -> None:
    with Connection("safety", fake.target) as connection:
        stub = connection.stub(generation_pb2_grpc.GenerationServiceStub)
        with pytest.raises(UnimplementedError, match="does not offer this call; is it another service"):
            connection.call(stub.Generate, generation_pb2.GenerateRequest())


def test_a_status_without_details_keeps_code_and_text(
    fake: FakeFleet, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(_request: object, _context: grpc.ServicerContext) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(fake.models, "ListModels", explode)
    fake.stop()
    fake.start()
    with pytest.raises(errors.UnknownError, match=r"the generation service at .* answered UNKNOWN: .*boom"):
        fleet.models.list()


def test_every_status_code_but_ok_has_its_class() -> None:
    codes = {each.code for each in EvalFleetError.__subclasses__() if each.code}
    assert codes == set(grpc.StatusCode) - {grpc.StatusCode.OK}
    assert InternalError("x").reason == "INTERNAL"


def test_the_library_needs_no_more_than_it_declares() -> None:
    allowed = {"evalfleet", "google", "grpc", "click", "rich"}
    folder = Path(evalfleet.__file__).parent
    for path in [*folder.glob("*.py"), *folder.glob("aio/*.py"), *folder.glob("cli/*.py")]:
        imported = set()
        module = ast.parse(path.read_text())
        # What only the type checker sees need not be installed.
        module.body = [each for each in module.body if not _is_for_the_type_checker(each)]
        for node in ast.walk(module):
            if isinstance(node, ast.Import):
                imported |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
        foreign = imported - set(sys.stdlib_module_names) - allowed
        assert not foreign, f"{path.name} imports {foreign}"
        if path.parent.name != "cli":
            assert not imported & {"click", "rich"}, f"{path.name} needs the extra"


def _is_for_the_type_checker(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("how", ["CANCELLED", "max_age"])
def test_a_call_that_a_stopping_service_dropped_may_be_made_again(
    fake: FakeFleet, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """gRPC cancels what reaches a server between its last look and its end; nobody here did."""
    dropped: list[bool] = []
    listed = fake.models.ListModels

    def drop_once(request: Any, context: grpc.ServicerContext) -> Any:
        if not dropped:
            dropped.append(True)
            context.abort(grpc.StatusCode.CANCELLED, how)
        return listed(request, context)

    monkeypatch.setattr(fake.models, "ListModels", drop_once)
    fake.stop()
    fake.start()
    fleet.models.list()
    assert dropped
