"""A training loop's days in minutes: many checkpoints registered and evaluated, one after another, under little memory.

Run it with ``make bench-soak``. A whole fleet with the real Triton; every checkpoint has the weights of the first with
noise of its own added, is registered, evaluated with a suite of twenty items by the evaluation service, and makes room
for those after it. The level after the tenth checkpoint is compared with the level at the end.

What is bounded has small bounds here, so that it is full by the tenth checkpoint and a plateau can be seen: the cache
of answers (64 KiB), models in memory (four), models that stay registered (five more), each process's log (16 KiB).
*Disk* is all that the fleet keeps in its state folder but two things, which are shown by themselves: the ledgers of
runs and results, which keep one row an item for ever, by design, and the logs. Both levels are read some seconds after
an evaluation, when journals have been emptied and logs looked after; the largest level on the way is a figure, too.
"""

import argparse
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

import torch
from evalfleet.fleet import Fleet
from evalfleet.results import RunState
from safetensors.torch import load_file, save_file

from benchmarks.memory import tree_whole_resident_mib
from benchmarks.report import installed_versions, write_result
from services.standalone.testing import RunningFleet

RESULT = Path("benchmarks/results/checkpoint_soak.json")
SUITE = Path(__file__).parent / "soak_suite"
FIRST_LEVEL = 10
PROCESSES = {"triton": "inference", "service": "generation", "evaluation": "evaluation", "aggregation": "aggregation"}
"""Whose memory is watched: by the figure's name, the fleet's part. ``service`` is the one that keeps the models."""

_MIB = 1 << 20
_LEDGERS = ("aggregation/ledger.sqlite", "evaluation/evaluation.sqlite")
_OVERHEAD_BYTES = 64 * _MIB
_RESIDENT_MODELS = 4
_UNUSED_MODELS = 5
_CACHE_BYTES = 64 * 1024
_LOG_BYTES = 16 * 1024
_LOGS = 7
_SETTLE_SECONDS = 8.0
_KEPT_FOLDERS = 8
_ITEMS = 20


@dataclass(frozen=True, slots=True)
class Level:
    """What the fleet takes at one moment.

    Attributes:
        memory_mib: of each of ``PROCESSES`` with all processes below it.
        files: sizes in bytes of all files in the state folder.
        register_seconds: from CreateModel to READY, of the checkpoint registered last.
        evaluate_seconds: its run, from CreateRun to the last estimate.
    """

    memory_mib: Mapping[str, float]
    files: Mapping[str, int]
    register_seconds: float
    evaluate_seconds: float

    @property
    def log_bytes(self) -> int:
        """Logs with their older pieces."""
        return sum(size for name, size in self.files.items() if ".log" in name)

    @property
    def ledger_bytes(self) -> int:
        """Runs and results, which are kept."""
        return sum(self.files.get(name, 0) for name in _LEDGERS)

    @property
    def disk_bytes(self) -> int:
        """Everything else."""
        return sum(self.files.values()) - self.log_bytes - self.ledger_bytes


def soak(base: Path, count: int, *, environment: Mapping[str, str] | None = None) -> list[Level]:
    """Register and evaluate ``count`` checkpoints; return the level after each.

    Raises:
        RuntimeError: an evaluation did not succeed.
    """
    with _fleet(base, environment or {}) as (running, root), Fleet.connect(running.endpoints) as fleet:
        weights = load_file(base / "model.safetensors")
        levels = []
        for index in range(count):
            folder = _perturbed(base, root / f"step-{index}", weights, index)
            started = time.perf_counter()
            fleet.models.add(folder, model_id=folder.name)
            registered = time.perf_counter()
            _evaluate(fleet, folder.name)
            evaluated = time.perf_counter()
            if index + 1 in (FIRST_LEVEL, count):
                time.sleep(_SETTLE_SECONDS)
            levels.append(_level(running, registered - started, evaluated - registered))
            # What a trainer that keeps its last checkpoints does.
            shutil.rmtree(root / f"step-{index - _KEPT_FOLDERS}", ignore_errors=True)
        return levels


@contextmanager
def _fleet(base: Path, environment: Mapping[str, str]) -> Iterator[tuple[RunningFleet, Path]]:
    cost = sum(file.stat().st_size for file in base.glob("*.safetensors")) + _OVERHEAD_BYTES
    limits = {
        "EVALFLEET_MODEL_MEMORY_BYTES": str(int((_RESIDENT_MODELS + 0.5) * cost)),
        "EVALFLEET_MODEL_OVERHEAD_BYTES": str(_OVERHEAD_BYTES),
        "EVALFLEET_UNUSED_MODELS_KEPT": str(_UNUSED_MODELS),
        "EVALFLEET_CACHE_MAX_BYTES": str(_CACHE_BYTES),
        "EVALFLEET_LOG_MAX_BYTES": str(_LOG_BYTES),
    }
    with tempfile.TemporaryDirectory(prefix="evalfleet-soak-") as folder:
        root = Path(folder)
        with RunningFleet(
            checkpoint_roots=[root], suite_dirs=[SUITE], environment={**limits, **environment}
        ) as running:
            yield running, root


def _perturbed(base: Path, folder: Path, weights: Mapping[str, torch.Tensor], seed: int) -> Path:
    shutil.copytree(base, folder)
    noise = torch.Generator().manual_seed(seed)
    changed = {
        name: tensor + 1e-3 * torch.randn(tensor.shape, generator=noise, dtype=torch.float32).to(tensor.dtype)
        for name, tensor in weights.items()
    }
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _evaluate(fleet: Fleet, model_id: str) -> None:
    started = fleet.runs.start(model=model_id, suite="soak")
    for snapshot in fleet.runs.watch(started.name):
        state = snapshot.run.state
    totals = fleet.runs.snapshot(started.name).totals
    if state is not RunState.SUCCEEDED or sum(each.scored_count for each in totals) != _ITEMS:
        raise RuntimeError(f"the evaluation of {model_id} did not succeed: {state}, {totals}")


def _level(running: RunningFleet, register_seconds: float, evaluate_seconds: float) -> Level:
    processes = running.processes
    files = {}
    for file in running.state_dir.rglob("*"):
        try:
            if file.is_file():
                files[file.relative_to(running.state_dir).as_posix()] = file.stat().st_size
        except FileNotFoundError:
            continue
    return Level(
        memory_mib={name: tree_whole_resident_mib(processes[part]) for name, part in PROCESSES.items()},
        files=files,
        register_seconds=register_seconds,
        evaluate_seconds=evaluate_seconds,
    )


def figures_of(levels: Sequence[Level]) -> dict[str, float]:
    """Return the level after the tenth checkpoint, at the end, and their ratios."""
    first, last = levels[FIRST_LEVEL - 1], levels[-1]
    figures: dict[str, float] = {
        "checkpoints": len(levels),
        "register_seconds_median": statistics.median(each.register_seconds for each in levels[1:]),
        "evaluate_seconds_median": statistics.median(each.evaluate_seconds for each in levels[1:]),
    }
    pairs = {name: (first.memory_mib[name], last.memory_mib[name]) for name in PROCESSES}
    pairs["disk"] = (first.disk_bytes / _MIB, last.disk_bytes / _MIB)
    pairs["log"] = (first.log_bytes / _MIB, last.log_bytes / _MIB)
    for name, (before, after) in pairs.items():
        figures |= {f"{name}_mib_after_10": before, f"{name}_mib_at_end": after, f"{name}_ratio": after / before}
    figures |= {
        "disk_mib_most": max(each.disk_bytes for each in levels) / _MIB,
        "log_mib_most": max(each.log_bytes for each in levels) / _MIB,
        "log_mib_bound": _LOGS * _LOG_BYTES / _MIB,
        "ledger_mib_after_10": first.ledger_bytes / _MIB,
        "ledger_mib_at_end": last.ledger_bytes / _MIB,
        "disk_with_logs_ratio": (last.disk_bytes + last.log_bytes) / (first.disk_bytes + first.log_bytes),
        "disk_with_logs_and_ledgers_ratio": sum(last.files.values()) / sum(first.files.values()),
        "ledger_bytes_per_run": (last.ledger_bytes - first.ledger_bytes) / max(1, len(levels) - FIRST_LEVEL),
    }
    return figures


def what_grew(levels: Sequence[Level]) -> list[str]:
    """Return a table of what changed since the tenth checkpoint, files and memory, with their sizes on the way."""
    steps = sorted({FIRST_LEVEL, *(len(levels) * quarter // 4 for quarter in (1, 2, 3, 4))})
    lines = [f"{'KiB (memory: MiB) after so many checkpoints':60}" + "".join(f"{step:>9}" for step in steps)]
    for name in PROCESSES:
        lines.append(
            f"{'memory of ' + name:60}" + "".join(f"{levels[step - 1].memory_mib[name]:9.1f}" for step in steps)
        )
    for name in sorted({name for step in steps for name in levels[step - 1].files}):
        sizes = [levels[step - 1].files.get(name, 0) for step in steps]
        if len(set(sizes)) > 1:
            lines.append(f"{name[-60:]:60}" + "".join(f"{size / 1024:9.1f}" for size in sizes))
    return lines


def main() -> None:
    """Run the soak and write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, help="a checkpoint to start from; default: a tiny policy, trained now"
    )
    parser.add_argument("--count", type=int, default=200, help="checkpoints to register")
    parser.add_argument("--json", type=Path, default=RESULT, help="where to write the result")
    told = parser.parse_args()
    if told.count < FIRST_LEVEL:
        parser.error(f"--count must be at least {FIRST_LEVEL}, whose level is compared with")
    base = told.checkpoint or _tiny_policy()
    levels = soak(base, told.count)
    print("\n".join(what_grew(levels)))
    figures = figures_of(levels)
    for name, value in figures.items():
        print(f"{name:32} {value:10.3f}")
    notes = [
        f"{told.count} checkpoints with noise on their weights, each registered and evaluated by a run of the "
        f"evaluation service over {SUITE.name} (10 answers, 10 choices); memory for {_RESIDENT_MODELS} of them, "
        f"{_UNUSED_MODELS} unused ones kept registered.",
        f"The cache of answers was bounded to {_CACHE_BYTES // 1024} KiB and each log to {_LOG_BYTES // 1024} KiB, so "
        "that both are full by the tenth checkpoint; their defaults are 2 GiB and 64 MiB.",
        "Ratios: the level at the end over the level after the tenth checkpoint, both after eight idle seconds. disk: "
        "the state folder of the whole fleet without logs and ledgers, but with the journals of all databases; "
        "disk_mib_most is without the idle seconds, in which the cache's journal (1 MiB) is emptied.",
        "ledger: the databases of runs and results (ledger.sqlite, evaluation.sqlite). They keep a row an item for "
        "ever, by design, and are not part of disk; ledger_bytes_per_run is what a run of 20 items adds.",
        "Memory: resident set size of each process with all below it; service is the generation service.",
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
