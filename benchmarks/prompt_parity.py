"""Are our prompts lm-evaluation-harness's? Renders the same rows with both and counts what differs.

    python -m benchmarks.prompt_parity --json benchmarks/results/prompt_parity.json

Compared for every row of the public sets under EVALFLEET_DATA_DIR that the harness has a task for: the context of each
request, the scored continuation, the choice as it is counted for length normalisation, which answers count as right,
and for generation the stop strings and the token limit. The harness runs from an environment of its own, which is made
under .peers/ when it is missing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from benchmarks.report import installed_versions, write_result
from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.items import Item, PlainPrompt, Prompt
from services.evaluation.loading import LoadedTask, load_task, present_tasks
from services.evaluation.rendering import Renderer
from services.evaluation.tasks import Task

_REPOSITORY = Path(__file__).parents[1]
_PEER_FOLDER = _REPOSITORY / ".peers" / "lm-eval"
# torch is named so that the resolver takes the same build as ours; 0.4.13 is the version that our tasks name.
_PEER_REQUIREMENTS = ("lm-eval==0.4.13", "torch==2.13.0")
_SUITES = ("capability", "bbq", "mgsm", "humaneval", "mbpp")


def main() -> int:
    """Render, compare, print and write the result; exit code 1 if anything differs that is not explained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    arguments = parser.parse_args()
    data = Path(os.environ.get("EVALFLEET_DATA_DIR") or _REPOSITORY.parent / "shared" / "data")
    python = _peer_python()
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.json", Path(folder) / "theirs.json"
        ours.write_text(json.dumps({"tasks": _render_all(data), "variants": _variants()}))
        command = [python, Path(__file__).with_name("prompt_parity_peer.py"), data, ours, theirs]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run(command, check=True, env={**environment, "HF_HUB_OFFLINE": "1"})
        compared = json.loads(theirs.read_text())
    figures: dict[str, float] = {}
    for name, counts in [*compared["tasks"].items(), ("variant_definitions", compared["variants"])]:
        figures |= {f"{name}_equal": counts["equal"], f"{name}_different": counts["different"]}
        print(f"{name:32} {counts['equal']:5} equal {counts['different']:5} different {counts['example'][:200]}")
    variants = compared["variants"]
    different = sum(counts["different"] for counts in compared["tasks"].values())
    figures["equal_rows"] = sum(counts["equal"] for counts in compared["tasks"].values())
    figures["different_rows"] = different
    if arguments.json:
        write_result(
            arguments.json,
            "prompt_parity",
            figures=figures,
            versions={**installed_versions("jinja2", "pyarrow"), **compared["versions"]},
            notes=[
                "variant_definitions: preamble, answer pattern, and mgsm's prompt and stop strings, of every variant.",
                "A row is equal if contexts, continuations, choices, right answers, stop strings and token limit are.",
                "gsm8k: the harness is told to take the first five examples; by default it draws them with a seed.",
                "mbpp: the harness is told to take the file's first three rows for examples instead of its own.",
            ],
        )
    return 1 if different or variants["different"] else 0


def _peer_python() -> Path:
    python = _PEER_FOLDER / "bin" / "python"
    if not python.exists():
        print(f"installing {' '.join(_PEER_REQUIREMENTS)} into {_PEER_FOLDER.relative_to(_REPOSITORY)}", flush=True)
        venv.create(_PEER_FOLDER, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *_PEER_REQUIREMENTS], check=True)
    return python


def _render_all(data: Path) -> dict[str, Any]:
    catalog, roots = Catalog.load(), DataRoots((data,))
    tasks = list({task.name: task for suite in _SUITES for task in catalog.suite(suite).tasks}.values())
    present, missing = present_tasks(tasks, roots)
    print(f"{len(present)} tasks have data, {len(missing)} have none")
    return {task.name: _render(load_task(task, roots)) for task in present}


def _render(loaded: LoadedTask) -> dict[str, Any]:
    spec = loaded.task.spec
    return {
        "peer_task": _peer_task(loaded.task),
        "constants": dict(loaded.task.constants),
        "few_shot_count": spec.few_shot.count if spec.few_shot else 0,
        "stop": list(spec.generation.stop),
        "max_tokens": spec.generation.max_tokens,
        "items": [_content(item) for item in loaded.items() if isinstance(item, Item)],
        "item_count": len(loaded),
    }


def _variants() -> list[dict[str, Any]]:
    """What distinguishes every variant of every family, whether there is data for it or not."""
    tasks = [task for suite in _SUITES for task in Catalog.load().suite(suite).tasks if task.name != task.family]
    return [
        {
            "peer_task": _peer_task(task),
            "preamble": Renderer().template(task.spec.preamble).render(task.constants),
            "pattern": task.constants.get("pattern", ""),
            "prompt": _prompt_of_nothing(task) if task.family == "mgsm" else "",
            "stop": list(task.spec.generation.stop) if task.family == "mgsm" else [],
        }
        for task in tasks
    ]


def _prompt_of_nothing(task: Task) -> str:
    return Renderer().template(task.spec.prompt).render({**task.constants, "question": ""})


def _peer_task(task: Task) -> str:
    """The harness's name, in which a word in capitals stands for the variant."""
    comparable = task.spec.comparable_to
    if comparable is None:
        raise SystemExit(f"{task.name} does not say what it can be compared with")
    name = comparable.task.partition(" ")[0]
    variant = task.name.removeprefix(f"{task.family}_")
    return name.replace("SUBJECT", variant).replace("SUBTASK", variant).replace("LANGUAGE", variant)


def _content(item: Item) -> dict[str, Any]:
    if item.multiple_choice is None:
        return {"contexts": [_text(item.prompt)], "targets": list(item.targets)}
    choices = item.multiple_choice.choices
    return {
        "contexts": [_text(choice.context) for choice in choices],
        "continuations": [choice.continuation for choice in choices],
        "choices": [choice.text for choice in choices],
        "gold": list(item.multiple_choice.gold_indices),
    }


def _text(prompt: Prompt | None) -> str:
    if not isinstance(prompt, PlainPrompt):
        raise SystemExit("only plain prompts can be compared")
    return prompt.text


if __name__ == "__main__":
    sys.exit(main())
