"""What the GPU image adds to NVIDIA's is all that our models and their launcher import beyond vLLM's own needs."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
OPTIONAL = {"nncf", "onnx", "onnxruntime", "openvino"}
"""Other runtimes of the embedded guard, for CPUs."""
OURS = {"evalfleet", "services", "triton_python_backend_utils"}
"""Installed from here, and by Triton's Python backend."""
WITH_VLLM = {
    "huggingface_hub",
    "numpy",
    "opentelemetry",
    "prometheus_client",
    "pydantic",
    "safetensors",
    "torch",
    "transformers",
    "vllm",
}
"""vLLM imports them itself."""
MODULES = {
    "google": {"googleapis-common-protos", "protobuf"},
    "grpc": {"grpcio"},
    "grpc_health": {"grpcio-health-checking"},
    "grpc_reflection": {"grpcio-reflection"},
    "grpc_status": {"grpcio-status"},
    "jwt": {"PyJWT"},
    "pydantic_settings": {"pydantic-settings"},
}


def pins(name: str) -> dict[str, str]:
    lines = (REPOSITORY / "requirements" / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


def imported_by(package: Path) -> set[str]:
    """Return the top-level modules that a package of ours imports, itself or through other modules of ours."""
    waiting, seen, found = set(package.rglob("*.py")), set(), set()
    while waiting:
        file = waiting.pop()
        seen.add(file)
        for name in imports_of(file):
            found.add(name.partition(".")[0])
            module = REPOSITORY / name.replace(".", "/")
            if name.startswith("services."):
                waiting |= {
                    each for each in (module.with_suffix(".py"), module / "__init__.py") if each.is_file()
                } - seen
    return found - set(sys.stdlib_module_names)


def test_nothing_is_missing() -> None:
    added = pins("triton-gpu.txt")
    for module in imported_by(REPOSITORY / "services/inference") - OPTIONAL - OURS - WITH_VLLM:
        assert MODULES.get(module, {module}) <= set(added), f"{module} is not in requirements/triton-gpu.txt"


def test_versions_are_those_of_all_images() -> None:
    everywhere = pins("constraints.txt")
    for name, version in pins("triton-gpu.txt").items():
        assert everywhere[name] == version
