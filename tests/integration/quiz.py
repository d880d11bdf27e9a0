"""A quiz with thousands of questions, for runs of which a part decides what all of it says."""

import json
from pathlib import Path
from random import Random

from examples.tiny_policy.multiple_choice import draw_question

ITEMS = 5000
TASK = """\
name: quiz
description: Everyday things, thousands of them.
provenance: {licence: Apache-2.0, citation: Written for this test}
sources:
  - root: bundled
    files: {test: quiz.jsonl}
    columns: [id, question, options, answer]
split: test
item_id: id
request: multiple_choice
prompt: "Question: {{ question }}\\nAnswer:"
choices: options
gold: answer
scorers:
  - {scorer: multiple_choice, metrics: [acc]}
primary_metric: acc
"""
SUITE = """\
name: quizzes
description: One quiz, with tiers.
tasks: [quiz]
tiers:
  smoke: {gates: [quiz >= 0.9]}
"""


def write_quiz(folder: Path) -> None:
    """Write its task, a suite with tiers, and its questions, which are always the same."""
    rng = Random("quiz")
    rows = []
    for index in range(ITEMS):
        question = draw_question(rng, held_out=index % 4 == 0)
        rows.append(
            {"id": f"q{index}", "question": question.text, "options": question.choices, "answer": question.answer}
        )
    for name, text in (
        ("tasks/quiz.yaml", TASK),
        ("suites/quizzes.yaml", SUITE),
        ("suites/data/quiz.jsonl", "".join(json.dumps(row) + "\n" for row in rows)),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
