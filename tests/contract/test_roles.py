"""No method of any service is without a role."""

from importlib import import_module
from pathlib import Path

import evalfleet
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import service_pb2

from services.evaluation.keda import externalscaler_pb2
from services.runtime.security.guard import AUDITED_METHODS
from services.runtime.security.roles import METHOD_ROLES, OPEN, Role

FOREIGN = (health_pb2, reflection_pb2, service_pb2, externalscaler_pb2)


def services() -> dict[str, ServiceDescriptor]:
    """All services of our protos, and those of others that our servers serve."""
    root = Path(evalfleet.__path__[0])
    files = [each.relative_to(root.parent).with_suffix("") for each in root.rglob("*_pb2.py")]
    modules = [*(import_module(".".join(each.parts)) for each in files), *FOREIGN]
    found = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    return {each.full_name: each for each in found}


def test_every_method_has_a_role() -> None:
    served = {f"{name}/{method.name}" for name, service in services().items() for method in service.methods}
    assert len({each.partition("/")[0] for each in served if each.startswith("evalfleet.")}) >= 8
    assert served - METHOD_ROLES.keys() == set()
    # Newer releases of gRPC serve it.
    assert METHOD_ROLES.keys() - served <= {"grpc.health.v1.Health/List"}


def test_only_health_is_open_and_only_administrators_change_what_all_see() -> None:
    assert {each for each, role in METHOD_ROLES.items() if role is OPEN} == {"grpc.health.v1.Health/Check"}
    changing = {each for each, role in METHOD_ROLES.items() if role is Role.ADMINISTER}
    assert changing == {each for each in AUDITED_METHODS if not each.startswith("inference.")}


def test_an_autoscaler_learns_how_much_work_there_is_and_nothing_else() -> None:
    scaling = {each for each, role in METHOD_ROLES.items() if role is Role.SCALE}
    [scaler] = externalscaler_pb2.DESCRIPTOR.services_by_name.values()
    assert scaling == {f"{scaler.full_name}/{method.name}" for method in scaler.methods}
