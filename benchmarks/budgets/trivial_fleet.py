"""Four services with a fake inference server on a PostgreSQL, and several evaluation services beside them."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

from benchmarks.chaos.replicas import EvaluationReplica
from benchmarks.overhead.workload import DATA_FILE, write_checkpoint, write_items, write_suites

_POLL_SECONDS = 0.05
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
_SERVICES = ("aggregation", "scoring", "generation")
_PRICES = {"prices": [{"usd_per_engine_second": 0.002, "usd_per_million_prompt_tokens": 3.0}]}
MOST_MICRO_USD_A_SECOND = 2000.0
MOST_MICRO_USD_A_TOKEN = 3.0


class TrivialFleet(AbstractContextManager["TrivialFleet"]):
    """Everything but an evaluation service: ledger, scorers, generation and a fake inference server.

    Args:
        folder: of its files.
        url: of an empty PostgreSQL database, for the ledger and the list of runs.
        item_count: items of the task.
        answer_seconds: how long the inference server takes for an answer; those of a stream come one after another.

    Attributes:
        endpoints: ``host:port`` by the service's name.
        suites: folder with the suite.
    """

    def __init__(self, folder: Path, url: str, item_count: int, *, answer_seconds: float = 0.0) -> None:
        self.endpoints: dict[str, str] = {}
        self._folder = folder
        self._url = url
        self._answer_seconds = answer_seconds
        self._account_file = folder / "account.json"
        self._limits_file = folder / "limits.json"
        self._limits: dict[str, int] = {}
        self._checkpoints = folder / "checkpoints"
        self._data = folder / "data"
        self._data.mkdir(parents=True)
        self._checkpoints.mkdir()
        self.suites = write_suites(folder / "definitions")
        write_items(self._data / DATA_FILE, item_count)
        (folder / "prices.json").write_text(json.dumps(_PRICES), encoding="utf-8")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._replicas = ExitStack()
        self._numbers = itertools.count()

    def __enter__(self) -> "TrivialFleet":
        try:
            fake = (
                "-m",
                "benchmarks.budgets.costly_triton",
                f"--account-file={self._account_file}",
                f"--ready-file={self._folder / 'costly_triton.ready'}",
                f"--answer-seconds={self._answer_seconds}",
                f"--limits-file={self._limits_file}",
            )
            triton = self._start("costly_triton", fake)
            settings = {
                "EVALFLEET_TRITON_TARGET": triton,
                "EVALFLEET_CHECKPOINT_ROOTS": str(self._checkpoints),
                "EVALFLEET_PRICE_TABLE": str(self._folder / "prices.json"),
                "EVALFLEET_MODEL_MEMORY_BYTES": str(1 << 40),
                "EVALFLEET_LEDGER_URL": self._url,
            }
            for name in _SERVICES:
                others = {f"EVALFLEET_{each.upper()}_TARGET": target for each, target in self.endpoints.items()}
                self.endpoints[name] = self._start(name, ("-m", f"services.{name}"), {**settings, **others})
            # It is not asked for anything: no task here wants a verdict.
            self.endpoints["safety"] = "127.0.0.1:1"
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def start_replicas(self, count: int, settings: Mapping[str, str]) -> Sequence[EvaluationReplica]:
        """Start evaluation services that come back whenever they die, until the fleet ends."""
        shared = {
            "EVALFLEET_RUNS_URL": self._url,
            "EVALFLEET_SUITE_DIRS": str(self.suites),
            "EVALFLEET_DATA_DIR": str(self._data),
            **settings,
        }
        folders = [self._folder / f"evaluation-{next(self._numbers)}" for _ in range(count)]
        return [
            self._replicas.enter_context(EvaluationReplica(self.endpoints, folder, shared, is_restarted=True))
            for folder in folders
        ]

    def new_checkpoint(self, name: str) -> Path:
        """Write a folder that passes for a checkpoint, with content of its own, so that no cache knows its answers."""
        folder = write_checkpoint(self._checkpoints / name)
        (folder / "tokenizer.json").write_text(json.dumps({"of": name}), encoding="utf-8")
        return folder

    def limit(self, name: str, answer_count: int | None) -> None:
        """Let the answers of a checkpoint wait after so many; None: none waits."""
        self._limits.pop(name, None)
        if answer_count is not None:
            self._limits[name] = answer_count
        new = self._limits_file.with_suffix(".new")
        new.write_text(json.dumps(self._limits), encoding="utf-8")
        new.replace(self._limits_file)

    def close(self) -> Mapping[str, tuple[float, float, float]]:
        """End everything; return what each checkpoint has answered: answers, tokens, engine seconds."""
        self._stop()
        account: dict[str, list[float]] = json.loads(self._account_file.read_text(encoding="utf-8"))
        return {name: (answers, tokens, seconds) for name, (answers, tokens, seconds) in account.items()}

    def _start(self, name: str, arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> str:
        """Start a process and return its address."""
        ready_file = self._folder / f"{name}.ready"
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("EVALFLEET_")},
            "EVALFLEET_PORT": "0",
            "EVALFLEET_PARENT_PID": str(os.getpid()),
            "EVALFLEET_DRAIN_DELAY_SECONDS": "0",
            "EVALFLEET_STATE_DIR": str(self._folder / name),
            "EVALFLEET_READY_FILE": str(ready_file),
            **(settings or {}),
        }
        log_path = self._folder / f"{name}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=log, stderr=log)
        self._processes.append(process)
        give_up_at = time.monotonic() + _START_SECONDS
        while not (ready_file.exists() and (target := ready_file.read_text(encoding="utf-8").strip())):
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"{name} did not start:\n{log_path.read_text(errors='replace')[-4000:]}")
            time.sleep(_POLL_SECONDS)
        return target

    def _stop(self) -> None:
        self._replicas.close()
        while self._processes:
            process = self._processes.pop()
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
