import dataclasses
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from jinja2.exceptions import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from examples.tiny_policy import arithmetic, demo_items, facts, multiple_choice, refusals, train
from examples.tiny_policy.batches import NO_LOSS, DocumentEncoder, EncodedDocument, make_batches
from examples.tiny_policy.checkpoints import FinishedCheckpoint, Manifest, SkillScores, checkpoint_name, save_checkpoint
from examples.tiny_policy.corpus import draw_documents
from examples.tiny_policy.documents import Document, Form, Turn
from examples.tiny_policy.model import build_model
from examples.tiny_policy.tokenizer import train_tokenizer
from examples.tiny_policy.training import Budget, Trainer, rate_share

SKILLED = ("arithmetic", "multiple_choice", "refusal")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost minutes where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(list(islice(draw_documents(0, -1, 0.5), 1500)), Random(0))


@pytest.fixture(scope="module")
def corpus_prompts() -> set[str]:
    return {turn.prompt for step in range(60) for d in islice(draw_documents(1, step, 0.3), 200) for turn in d.turns}


def read_rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (demo_items.DEFAULT_FOLDER / name).read_text(encoding="utf-8").splitlines()]


def test_the_committed_items_are_what_the_command_writes(tmp_path: Path) -> None:
    for written in demo_items.write_items(tmp_path):
        assert written.read_bytes() == (demo_items.DEFAULT_FOLDER / written.name).read_bytes(), written.name


def test_the_suite_has_enough_different_items() -> None:
    sums, choices, requests = (read_rows(f"demo_{name}.jsonl") for name in ("arithmetic", "mcq", "requests"))

    assert len({row["question"] for row in sums}) >= 100
    assert len({(row["question"], *row["choices"]) for row in choices}) >= 100
    assert {len(set(row["choices"])) for row in choices} == {4}
    assert {row["answer"] for row in choices} == {0, 1, 2, 3}
    assert len({row["prompt"] for row in requests}) >= 60
    assert sum(row["label"] == "harmful" for row in requests) == len(requests) // 2
    assert all((row["hazard"] in refusals.HARMFUL) == (row["label"] == "harmful") for row in requests)


def test_training_never_shows_an_item_of_the_suite(corpus_prompts: set[str]) -> None:
    for row in read_rows("demo_arithmetic.jsonl"):
        assert not any(row["question"] in prompt for prompt in corpus_prompts), row
    for row in read_rows("demo_requests.jsonl"):
        assert row["prompt"] not in corpus_prompts, row
    for row in read_rows("demo_mcq.jsonl"):
        right = row["choices"][row["answer"]]
        asked = [prompt for prompt in corpus_prompts if f"{row['question']}\n" in f"{prompt}\n"]
        assert not any(f". {right}\n" in prompt and all(c in prompt for c in row["choices"]) for prompt in asked), row


def test_training_shows_no_held_out_problem_in_any_wording(corpus_prompts: set[str]) -> None:
    bare = {prompt.removesuffix(" =") for prompt in corpus_prompts if prompt.endswith(" =")}
    problems = [
        arithmetic.Problem(arithmetic.Operation(sign), int(left), int(right))
        for left, sign, right in (expression.split() for expression in bare)
    ]

    assert len(problems) > 300
    assert not [problem for problem in problems if problem.is_held_out]


def test_answers_are_right() -> None:
    rng = Random(3)
    for _ in range(300):
        problem = arithmetic.draw_problem(rng, held_out=bool(rng.randrange(2)))
        assert eval(problem.expression) == problem.answer
        assert 0 <= problem.answer <= 99
        answer = arithmetic.phrase(problem, rng).answer
        assert answer in (str(problem.answer), f"{problem.expression} = {problem.answer}\n#### {problem.answer}")


def test_the_right_choice_is_a_fact_of_the_world_and_stands_once() -> None:
    rng = Random(4)
    for _ in range(500):
        question = multiple_choice.draw_question(rng, held_out=False)
        right = question.choices[question.answer]
        assert len(set(question.choices)) == 4
        if question.text.startswith("What colour is ") and question.text.count(" ") == 3:
            assert right == facts.COLOURS[question.text.removeprefix("What colour is ").removesuffix("?")]
        if question.text.startswith("Which number is the largest"):
            assert int(right) == max(map(int, question.choices))


def test_every_fact_keeps_a_wording_for_training() -> None:
    rng = Random(5)
    seen = [multiple_choice.draw_question(rng, held_out=False) for _ in range(8000)]
    for thing, colour in facts.COLOURS.items():
        assert any(f" {thing}" in q.text and q.choices[q.answer] == colour for q in seen), thing


def test_harmful_and_harmless_requests_share_wordings_and_words() -> None:
    rng = Random(6)
    harmful = {
        word for _ in range(500) for word in refusals.draw_request(rng, held_out=None, harmful=True).prompt.split()
    }
    benign = {
        word for _ in range(500) for word in refusals.draw_request(rng, held_out=None, harmful=False).prompt.split()
    }

    assert {"kill", "steal", "attack", "break"} <= harmful & benign


def test_documents_depend_on_seed_and_step_alone() -> None:
    first = list(islice(draw_documents(1, 5, 0.1), 40))

    assert first == list(islice(draw_documents(1, 5, 0.1), 40))
    assert first != list(islice(draw_documents(1, 6, 0.1), 40))
    assert first != list(islice(draw_documents(2, 5, 0.1), 40))


@pytest.mark.parametrize(
    "text", ["What is 12 + 7?", "Grüße, 你好 \n\n  tabs\tand 3.14159", "def f(x):\n    return x", ""]
)
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_ordinary_english_does_not_fall_into_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    text = (
        "The children walked along the river because their school was closed, and nobody knew when it would open again."
    )
    assert len(tokenizer.tokenize(text)) < 1.6 * len(text.split())


def test_a_letter_is_one_token_as_harnesses_score_it(tokenizer: PreTrainedTokenizerFast) -> None:
    for letter in "ABCD":
        assert len(tokenizer.tokenize(f" {letter}")) == len(tokenizer.tokenize(letter)) == 1


def test_training_sees_conversations_exactly_as_the_chat_template_renders_them(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    turns = (Turn("What is 12 + 7?", "19"), Turn("How do I steal a car?", refusals.REFUSAL))
    encoded = DocumentEncoder(tokenizer).encode(Document(Form.CHAT, turns, "Answer briefly."), Random(0))

    messages = [{"role": "system", "content": "Answer briefly."}]
    for turn in turns:
        messages += [{"role": "user", "content": turn.prompt}, {"role": "assistant", "content": turn.answer}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert list(encoded.tokens) == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    targets = [token for token, target in zip(encoded.tokens, encoded.is_target, strict=True) if target]
    assert tokenizer.decode(targets) == f"19<|end|>{refusals.REFUSAL}<|end|>"


def test_the_template_opens_the_answer_and_rejects_what_it_does_not_know(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": " Hi "}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == "<|begin|><|user|>Hi<|end|><|assistant|>"
    with pytest.raises(TemplateError, match="Unknown role tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}])
    with pytest.raises(TemplateError, match="first message"):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}])


def test_loss_falls_on_answers_alone() -> None:
    long = EncodedDocument((5, 6, 7, 8), (False, False, True, True))
    short = EncodedDocument((9, 3), (False, True))

    (batch,) = make_batches([long, short], batch_count=1, padding=0)

    assert batch.tokens.tolist() == [[9, 3, 0, 0], [5, 6, 7, 8]]
    assert batch.targets.tolist() == [[3, *[NO_LOSS] * 3], [NO_LOSS, 7, 8, NO_LOSS]]
    assert batch.target_count == 3


def test_batches_hold_every_document_once() -> None:
    documents = [EncodedDocument((n,) * (n % 17 + 2), (True,) * (n % 17 + 2)) for n in range(1, 90)]

    batches = make_batches(documents, batch_count=3, padding=0)

    assert len(batches) == 3
    assert sorted(int(row[0]) for batch in batches for row in batch.tokens) == list(range(1, 90))


def test_the_learning_rate_rises_stays_and_falls() -> None:
    assert rate_share(0, 0.0) < rate_share(10, 0.0) < rate_share(100, 0.2) == 1.0
    assert rate_share(100, 0.6) > rate_share(100, 0.9) > rate_share(100, 1.0) > 0


def test_a_budget_is_steps_or_seconds() -> None:
    with pytest.raises(ValueError, match="steps or in seconds"):
        Budget()
    budget = Budget(steps=4)
    budget.charge(0.0)
    assert budget.fraction_spent == 0.25


def test_steps_lower_the_loss_and_are_reproducible(tokenizer: PreTrainedTokenizerFast) -> None:
    losses = []
    for _ in range(2):
        trainer = Trainer(build_model(tokenizer, 0), tokenizer, seed=0)
        losses.append([trainer.take_step(step, step / 4) for step in range(4)])

    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]


def test_a_checkpoint_loads_offline_like_any_other(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = build_model(tokenizer, 0)
    folder = tmp_path / checkpoint_name(7)
    save_checkpoint(model, tokenizer, folder)
    save_checkpoint(model, tokenizer, folder)

    assert [path.name for path in tmp_path.iterdir()] == ["step-0007"]
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    loaded_tokenizer = AutoTokenizer.from_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert 1_000_000 < sum(weight.numel() for weight in loaded.parameters()) < 3_000_000
    text = "Question: What is 3 + 4?\nAnswer: B Grüße"
    assert loaded_tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded_tokenizer.chat_template == tokenizer.chat_template
    tokens = torch.tensor([tokenizer(text)["input_ids"]])
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_a_checkpoint_that_fails_half_way_leaves_nothing(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "save_pretrained", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(build_model(tokenizer, 0), tokenizer, tmp_path / "step-0001")
    assert not list(tmp_path.iterdir())


def finish(folder: Path, digest: str) -> Manifest:
    scores = SkillScores(**dict.fromkeys(SKILLED, 0.5))
    manifest = Manifest(digest, (FinishedCheckpoint("step-0003", 3, scores),))
    (folder / "step-0003").mkdir(parents=True)
    (folder / "step-0003" / "model.safetensors").touch()
    manifest.write(folder)
    return manifest


def test_the_manifest_is_there_only_when_everything_is(tmp_path: Path) -> None:
    assert Manifest.read(tmp_path) is None
    manifest = finish(tmp_path, "digest")
    assert Manifest.read(tmp_path) == manifest
    (tmp_path / "step-0003" / "model.safetensors").unlink()
    assert Manifest.read(tmp_path) is None
    (tmp_path / "training.json").write_text("{")
    assert Manifest.read(tmp_path) is None


def test_finished_checkpoints_are_kept_and_others_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int | None] = []

    def pretend(out: Path, budget: Budget, seed: int, console: object) -> list[FinishedCheckpoint]:
        trained.append(budget.steps)
        return [dataclasses.replace(row, step=budget.steps or 0) for row in finish(out, "x").checkpoints]

    monkeypatch.setattr(train, "train", pretend)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    runner = CliRunner()
    arguments = ["--out", str(tmp_path), "--steps"]

    assert runner.invoke(train.main, [*arguments, "9"]).exit_code == 0
    again = runner.invoke(train.main, [*arguments, "9"])
    assert again.output.startswith("Kept: ")
    assert trained == [9]
    assert runner.invoke(train.main, [*arguments, "10"]).exit_code == 0
    assert trained == [9, 10]


def test_the_command_explains_itself_and_refuses_two_budgets(tmp_path: Path) -> None:
    shown = CliRunner().invoke(train.main, ["--help"])
    assert "--steps 40" in shown.output
    refused = CliRunner().invoke(train.main, ["--out", str(tmp_path / "x"), "--steps", "9", "--seconds", "9"])
    assert refused.exit_code == 2
    assert "not both" in refused.output
    assert not (tmp_path / "x").exists()
