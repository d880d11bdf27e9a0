"""What `make demo` runs: train a tiny policy, start a fleet, evaluate two checkpoints, compare, stop everything."""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from evalfleet.fleet import Fleet
from evalfleet.results import Suite

from services.standalone.errors import PartFailedError
from services.standalone.options import InferenceKind
from services.standalone.testing import RunningFleet

SUITE = "demo"
CHECKPOINTS = Path(".cache/tiny_policy")
EVALFLEET = (sys.executable, "-m", "evalfleet.cli.main")


def main() -> int:
    """Run the demo; 0 if the better-trained checkpoint scored higher and nothing is left running."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="most items a task; default: all")
    parser.add_argument("--inference", choices=("triton", "local"), default="triton")
    parser.add_argument("--trained", type=Path, metavar="DIR", help="use this finished training instead of training")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    began = time.monotonic()
    try:
        weak, strong = trained_checkpoints(options.trained)
        scores = evaluate([weak, strong], inference=options.inference, item_limit=options.limit)
    except (PartFailedError, subprocess.CalledProcessError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; everything was stopped.", file=sys.stderr)
        return 130
    say(f"7. Compare, {time.monotonic() - began:.0f} s after the beginning")
    for checkpoint, value in zip((weak, strong), scores, strict=True):
        print(f"{checkpoint.name}  {value:.3f}  mean of the primary metrics, each turned so that more is better")
    if scores[1] <= scores[0]:
        print(f"{strong.name} was trained longer and should score higher", file=sys.stderr)
        return 1
    print(f"The better-trained checkpoint, {strong.name}, scores higher.")
    return 0


def say(step: str) -> None:
    """Announce a step."""
    print(f"\n=== {step}", flush=True)


def trained_checkpoints(finished: Path | None) -> tuple[Path, Path]:
    """Return the least and the best trained checkpoint of a training, which is done first if it is not finished.

    Args:
        finished: folder of a finished training; ``None``: train in ``CHECKPOINTS``, unless that was done before.

    Raises:
        CalledProcessError: the training failed.
    """
    folder = finished or CHECKPOINTS
    if finished is None:
        say(f"1. Train a tiny chat model from scratch; it is kept in {CHECKPOINTS} for the next time")
        subprocess.run([sys.executable, "-m", "examples.tiny_policy.train", f"--out={CHECKPOINTS}"], check=True)
    names = [each["name"] for each in json.loads((folder / "training.json").read_text())["checkpoints"]]
    return folder / names[0], folder / names[-1]


def evaluate(checkpoints: Sequence[Path], *, inference: InferenceKind, item_limit: int | None) -> list[float]:
    """Start a fleet, evaluate each checkpoint with the command line, stop the fleet, and return their scores.

    Raises:
        PartFailedError: the fleet did not start, or did not stop properly.
        CalledProcessError: a run failed.
    """
    say(f"2. Start a fleet with --inference {inference}: it takes free ports and a temporary folder")
    scores = []
    with (
        tempfile.TemporaryDirectory(prefix="evalfleet-demo-") as folder,
        RunningFleet(inference=inference, checkpoint_roots=[each.parent for each in checkpoints]) as running,
        Fleet.connect(state_dir=running.state_dir) as fleet,
    ):
        print(running.output)
        suite = fleet.suites.get(SUITE)
        for number, checkpoint in enumerate(checkpoints, start=3):
            say(f"{number}. evalfleet run --model {checkpoint} --suite {SUITE}")
            report = Path(folder) / f"{checkpoint.name}.json"
            command = [*EVALFLEET, f"--state-dir={running.state_dir}", "run", f"--model={checkpoint}"]
            command += [f"--suite={SUITE}", f"--json={report}"]
            command += [] if item_limit is None else [f"--limit={item_limit}"]
            subprocess.run(command, check=True)
            scores.append(score(json.loads(report.read_text()), suite))
        say("5. The same run once more: the cache of answers has it all, so nothing is computed")
        subprocess.run(command, check=True)
        say("6. Stop the fleet")
    if running.process.returncode != 0:
        raise PartFailedError("fleet", f"it ended with exit code {running.process.returncode}", running.state_dir, "")
    print("The fleet has drained; none of its processes is left.")
    return scores


def score(report: dict[str, Any], suite: Suite) -> float:
    """Return the mean over the suite's tasks of the primary metric, as 1 - value where less is better."""
    values = {(each["task"], each["metric"]): each["value"] for each in report["estimates"] if not each["group"]}
    oriented: list[float] = []
    for task in suite.tasks:
        value = values[task.name, task.primary_metric]
        oriented.append(value if task.higher_is_better else 1 - value)
    return sum(oriented) / len(oriented)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    # Unwinds the `with` statements, which stop the fleet.
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
