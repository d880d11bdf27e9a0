"""lm-evaluation-harness through a real fleet, beside its own Hugging Face model on the same checkpoint."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from evalfleet.fleet import Fleet
from evalfleet.plugins.lm_eval import EvalFleetLM
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from benchmarks.prompt_parity_peer import load_with_rows
from services.standalone.testing import RunningFleet

pytestmark = pytest.mark.integration

DATA = Path(os.environ.get("EVALFLEET_DATA_DIR") or Path(__file__).resolve().parents[3] / "shared" / "data")
ROWS = 6
TOLERANCE = 1e-3


class Sides(NamedTuple):
    """The same checkpoint in the fleet and in the harness's own Hugging Face model."""

    ours: EvalFleetLM
    theirs: HFLM


def both(fleet: RunningFleet, checkpoint: Path, **options: Any) -> Sides:
    with Fleet.connect(fleet.endpoints) as client:
        model = client.models.add(checkpoint)
    return Sides(
        EvalFleetLM(model=model.name, endpoint=fleet.endpoints["generation"]),
        HFLM(pretrained=str(checkpoint), dtype="float32", device="cpu", batch_size=8, **options),
    )


@pytest.fixture(scope="module")
def policy(fleet: RunningFleet, tiny_policy: Path) -> Sides:
    """A little trained policy with a context of 4096 tokens."""
    return both(fleet, tiny_policy)


@pytest.fixture(scope="module")
def babbler(fleet: RunningFleet, tiny_checkpoint: Path) -> Sides:
    """Random weights, which never end an answer, with a context of 256 tokens, which most prompts are too long for."""
    return both(fleet, tiny_checkpoint)


@pytest.fixture(scope="module")
def tasks() -> dict[str, Any]:
    if not DATA.is_dir():
        pytest.skip(f"no benchmark rows in {DATA}")
    manager = TaskManager()
    wanted: dict[str, tuple[str, Mapping[str, Any], int]] = {
        "gsm8k": ("gsm8k", {}, 1),
        "arc_challenge": ("arc_challenge", {}, 0),
        "mmlu_anatomy": ("mmlu_anatomy", {"subject": "anatomy"}, 2),
    }
    found = {}
    for name, (peer_task, constants, few_shot_count) in wanted.items():
        found[name] = load_with_rows(manager, name, peer_task, DATA, constants, few_shot_count)
        found[name].set_config("num_fewshot", few_shot_count)
    found["gsm8k"].config.generation_kwargs["max_gen_toks"] = 48
    return found


def evaluated(model: Any, tasks: Mapping[str, Any], **options: Any) -> Any:
    return evaluator.evaluate(model, dict(tasks), limit=ROWS, bootstrap_iters=0, log_samples=True, **options)


def of_samples(found: Any, task: str) -> list[Any]:
    """The arguments and the first response of each request of each sample, in the order of the samples."""
    samples = sorted(found["samples"][task], key=lambda each: each["doc_id"])
    return [(sample["arguments"], [each[0] for each in sample["resps"]]) for sample in samples]


@pytest.mark.parametrize("checkpoint", ["policy", "babbler"])
def test_the_harness_gives_the_same_scores_as_with_its_own_model(
    checkpoint: str, tasks: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    ours, theirs = request.getfixturevalue(checkpoint)
    expected, found = evaluated(theirs, tasks), evaluated(ours, tasks)
    assert set(found["results"]) == set(tasks)
    assert found["results"] == expected["results"]
    for name in ("arc_challenge", "mmlu_anatomy"):
        for (asked, mine), (peer_asked, peer) in zip(of_samples(found, name), of_samples(expected, name), strict=True):
            assert asked == peer_asked
            assert [float(each[0]) for each in mine] == pytest.approx([float(each[0]) for each in peer], abs=TOLERANCE)
            assert [str(each[1]) for each in mine] == [str(each[1]) for each in peer]
    assert of_samples(found, "gsm8k") == of_samples(expected, "gsm8k")
    if checkpoint == "babbler":
        assert all(len(responses[0]) > 5 for _, responses in of_samples(found, "gsm8k"))


def test_a_chat_is_rendered_by_the_checkpoints_own_template(policy: Sides, tasks: dict[str, Any]) -> None:
    some = {"arc_challenge": tasks["arc_challenge"], "mmlu_anatomy": tasks["mmlu_anatomy"]}
    options = {"apply_chat_template": True, "fewshot_as_multiturn": True, "system_instruction": "Answer."}
    expected, found = evaluated(policy.theirs, some, **options), evaluated(policy.ours, some, **options)
    for name in some:
        for (_, mine), (_, peer) in zip(of_samples(found, name), of_samples(expected, name), strict=True):
            assert [float(each[0]) for each in mine] == pytest.approx([float(each[0]) for each in peer], abs=TOLERANCE)


def test_whole_texts_are_scored_in_windows_as_the_harness_does(fleet: RunningFleet, tiny_checkpoint: Path) -> None:
    # Told to put the BOS token before a text itself, the harness would also score that token, behind another.
    ours, theirs = both(fleet, tiny_checkpoint, add_bos_token=False)
    texts = ["A short text.", "The cat sat on the mat. " * 60, "é"]
    asked = [Instance("loglikelihood_rolling", {}, (text,), index) for index, text in enumerate(texts)]
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours.loglikelihood_rolling(asked, disable_tqdm=True) == pytest.approx(expected, rel=1e-4)


def test_a_prompt_that_is_asked_again_is_sampled_again(babbler: Sides) -> None:
    wishes = {"until": [], "do_sample": True, "temperature": 1.5, "max_gen_toks": 8}
    asked = [Instance("generate_until", {}, ("Say anything", wishes), 0) for _ in range(4)]
    assert len(set(babbler.ours.generate_until(asked, disable_tqdm=True))) > 1
