"""A training loop's days in minutes: many checkpoints registered and evaluated, one after another, under little memory.

Run it with ``make bench-soak``. A real fleet with the real Triton; every checkpoint has the weights of the one before
with noise added, gets a few questions, and makes room for those after it.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import torch
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from safetensors.torch import load_file, save_file

from benchmarks.report import installed_versions, write_result
from services.standalone.testing import RunningFleet

RESULT = Path("benchmarks/results/checkpoint_soak.json")
FIRST_LEVEL = 10
_MIB = 1 << 20
_OVERHEAD_BYTES = 64 * _MIB
_RESIDENT_MODELS = 4
_CALL_SECONDS = 120.0
_PROMPTS = ("What is 2 + 3?", "Name a planet.", "The quick brown fox")


@dataclass(frozen=True, slots=True)
class Level:
    """What the fleet takes at one moment.

    Attributes:
        triton_bytes: resident memory of Triton and all processes below it.
        service_bytes: resident memory of the generation service.
        disk_bytes: files in the state folders of both, logs left out.
        log_bytes: their logs.
        register_seconds: from CreateModel to READY, of the checkpoint registered last.
    """

    triton_bytes: int
    service_bytes: int
    disk_bytes: int
    log_bytes: int
    register_seconds: float


def soak(base: Path, count: int, *, environment: Mapping[str, str] | None = None) -> list[Level]:
    """Register and evaluate ``count`` checkpoints; return the level after each."""
    with (
        _fleet(base, environment or {}) as (fleet, root),
        grpc.insecure_channel(fleet.endpoints["generation"]) as channel,
    ):
        weights = load_file(base / "model.safetensors")
        levels = []
        for index in range(count):
            folder = _perturbed(base, root / f"step-{index}", weights, index)
            seconds = _register(channel, folder)
            _evaluate(channel, folder.name)
            levels.append(_level(fleet, seconds))
            # What a trainer that keeps its last checkpoints does.
            shutil.rmtree(root / f"step-{index - 8}", ignore_errors=True)
        return levels


@contextmanager
def _fleet(base: Path, environment: Mapping[str, str]) -> Iterator[tuple[RunningFleet, Path]]:
    cost = sum(file.stat().st_size for file in base.glob("*.safetensors")) + _OVERHEAD_BYTES
    limits = {
        "EVALFLEET_MODEL_MEMORY_BYTES": str(int((_RESIDENT_MODELS + 0.5) * cost)),
        "EVALFLEET_MODEL_OVERHEAD_BYTES": str(_OVERHEAD_BYTES),
        "EVALFLEET_UNUSED_MODELS_KEPT": "5",
    }
    with tempfile.TemporaryDirectory(prefix="evalfleet-soak-") as folder:
        root = Path(folder)
        with RunningFleet(checkpoint_roots=[root], environment={**limits, **environment}) as fleet:
            yield fleet, root


def _perturbed(base: Path, folder: Path, weights: Mapping[str, torch.Tensor], seed: int) -> Path:
    shutil.copytree(base, folder)
    noise = torch.Generator().manual_seed(seed)
    changed = {
        name: tensor + 1e-3 * torch.randn(tensor.shape, generator=noise, dtype=torch.float32).to(tensor.dtype)
        for name, tensor in weights.items()
    }
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _register(channel: grpc.Channel, folder: Path) -> float:
    models = model_pb2_grpc.ModelServiceStub(channel)
    started = time.perf_counter()
    request = model_pb2.CreateModelRequest(model_id=folder.name, checkpoint_path=str(folder))
    model = models.CreateModel(request, timeout=_CALL_SECONDS).model
    while model.state == model_pb2.MODEL_STATE_LOADING:
        time.sleep(0.01)
        model = models.GetModel(model_pb2.GetModelRequest(name=model.name), timeout=_CALL_SECONDS).model
    assert model.state == model_pb2.MODEL_STATE_READY, model.failure
    return time.perf_counter() - started


def _evaluate(channel: grpc.Channel, model_id: str) -> None:
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    for prompt in _PROMPTS:
        sampling = generation_pb2.SamplingParameters(max_tokens=16)
        stub.Generate(
            generation_pb2.GenerateRequest(model=f"models/{model_id}", prompt=prompt, sampling=sampling),
            timeout=_CALL_SECONDS,
        )
        stub.ScoreContinuations(
            generation_pb2.ScoreContinuationsRequest(
                model=f"models/{model_id}", prompt=prompt, continuations=[" 5", " Mars", " jumps"]
            ),
            timeout=_CALL_SECONDS,
        )


def _level(fleet: RunningFleet, register_seconds: float) -> Level:
    logs = [*(fleet.state_dir / "logs").glob("*"), *(fleet.state_dir / "inference").glob("*.log")]
    folders = (fleet.state_dir / "generation", fleet.state_dir / "inference")
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and file not in logs]
    return Level(
        triton_bytes=_tree_bytes(fleet.processes["inference"]),
        service_bytes=_resident_bytes(fleet.processes["generation"]),
        disk_bytes=sum(map(_size, files)),
        log_bytes=sum(map(_size, logs)),
        register_seconds=register_seconds,
    )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _tree_bytes(process_id: int) -> int:
    children: list[int] = []
    for task in Path(f"/proc/{process_id}/task").iterdir():
        children += map(int, (task / "children").read_text().split())
    return _resident_bytes(process_id) + sum(map(_tree_bytes, children))


def _resident_bytes(process_id: int) -> int:
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def figures_of(levels: Sequence[Level]) -> dict[str, float]:
    """Return the level after the tenth checkpoint, at the end, and their ratios."""
    first, last = levels[FIRST_LEVEL - 1], levels[-1]
    figures: dict[str, float] = {
        "checkpoints": len(levels),
        "register_seconds_median": statistics.median(each.register_seconds for each in levels[1:]),
    }
    for name in ("triton", "service", "disk", "log"):
        before, after = getattr(first, f"{name}_bytes"), getattr(last, f"{name}_bytes")
        figures |= {
            f"{name}_mib_after_10": before / _MIB,
            f"{name}_mib_at_end": after / _MIB,
            f"{name}_ratio": after / before,
        }
    return figures


def main() -> None:
    """Run the soak and write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, help="a checkpoint to start from; default: a tiny policy, trained now"
    )
    parser.add_argument("--count", type=int, default=200, help="checkpoints to register")
    parser.add_argument("--json", type=Path, default=RESULT, help="where to write the result")
    told = parser.parse_args()
    base = told.checkpoint or _tiny_policy()
    figures = figures_of(soak(base, told.count))
    for name, value in figures.items():
        print(f"{name:28} {value:10.3f}")
    notes = [
        f"{told.count} checkpoints with noise on their weights, registered and asked {2 * len(_PROMPTS)} things each "
        f"through the generation service; memory for {_RESIDENT_MODELS} of them, 5 unused ones kept registered.",
        "Ratios: the level at the end over the level after the tenth checkpoint; logs are counted apart from the disk.",
    ]
    write_result(
        told.json,
        "checkpoint_soak",
        figures=figures,
        versions=installed_versions("torch", "transformers", "nvidia-pytriton"),
        notes=notes,
    )


def _tiny_policy() -> Path:
    folder = Path(".cache/tiny_policy_soak")
    command = [sys.executable, "-m", "examples.tiny_policy.train", f"--out={folder}", "--steps=12"]
    subprocess.run(command, check=True)
    return max((each for each in folder.iterdir() if (each / "config.json").is_file()), key=lambda each: each.name)


if __name__ == "__main__":
    main()
