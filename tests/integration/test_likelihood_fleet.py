"""A task over texts on a real fleet: how likely each is, and the corpus' bits per byte."""

import math
import shutil
from pathlib import Path

import pytest
from evalfleet.fleet import Fleet
from evalfleet.results import RunState

from services.standalone.testing import RunningFleet

pytestmark = pytest.mark.integration


def test_texts_are_scored_and_make_a_corpus(
    fleet: RunningFleet, checkpoint_folder: Path, tiny_checkpoint: Path
) -> None:
    with Fleet.connect(fleet.endpoints) as client:
        folder = shutil.copytree(tiny_checkpoint, checkpoint_folder / "likely")
        model = client.models.add(folder, model_id="likely").name
        run = client.runs.start(model=model, suite="demo_texts", item_limit=6)
        for snapshot in client.runs.watch(run.name):
            last = snapshot
        assert last.run.state is RunState.SUCCEEDED, last.run.failure
        found = client.runs.snapshot(run.name, with_set_measures=True)
    values = {each.metric: each.value or 0.0 for each in found.estimates}
    figures = {each.name: each for each in found.set_measures}
    bits = figures["corpus_bits_per_byte"]
    assert bits.value == pytest.approx(values["nats"] / values["bytes"] / math.log(2), rel=1e-6)
    assert figures["corpus_token_perplexity"].value == pytest.approx(
        math.exp(values["nats"] / values["tokens"]), rel=1e-6
    )
    assert bits.interval is not None
    assert bits.interval.lower < bits.value < bits.interval.upper
    assert (bits.item_count, found.totals[0].scored_count) == (6, 6)
    assert 0 < values["token_probability"] < 1
