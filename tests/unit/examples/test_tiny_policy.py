import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from jinja2.exceptions import TemplateError
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from examples.tiny_policy import arithmetic, demo_items, facts, multiple_choice, refusals, train
from examples.tiny_policy.batches import NO_LOSS, DocumentEncoder, EncodedDocument, make_batches
from examples.tiny_policy.corpus import draw_documents
from examples.tiny_policy.documents import Document, Form, Turn
from examples.tiny_policy.held_out import Skills
from examples.tiny_policy.tokenizer import train_tokenizer


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost minutes where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(list(islice(draw_documents(0, -1), 1500)), Random(0))


@pytest.fixture(scope="module")
def corpus_prompts() -> set[str]:
    return {turn.prompt for step in range(60) for d in islice(draw_documents(1, step), 200) for turn in d.turns}


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
    rows = [*read_rows("demo_arithmetic.jsonl"), *read_rows("demo_mcq.jsonl"), *read_rows("demo_requests.jsonl")]
    for row in rows:
        question = row.get("question") or row["prompt"]
        assert question not in corpus_prompts, row
        assert f"Question: {question}\nAnswer:" not in corpus_prompts, row


@pytest.mark.parametrize("held_out", [True, False])
def test_answers_are_right(held_out: bool) -> None:
    rng = Random(3)
    for _ in range(300):
        problem, turn = arithmetic.draw_turn(rng, Form.CHAT, held_out=held_out)
        assert eval(problem.expression) == problem.answer >= 0
        assert turn.answer in (str(problem.answer), f"{problem.expression} = {problem.answer}\n#### {problem.answer}")


def test_the_right_choice_is_a_fact_of_the_world_and_stands_once() -> None:
    rng = Random(4)
    for _ in range(500):
        question = multiple_choice.draw_question(rng, held_out=False)
        right = question.choices[question.answer]
        assert len(set(question.choices)) == 4
        if question.text.startswith("What colour is ") and question.text.count(" ") == 3:
            assert right == facts.COLOURS[question.text.removeprefix("What colour is ").removesuffix("?")]


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
    first = list(islice(draw_documents(1, 5), 40))

    assert first == list(islice(draw_documents(1, 5), 40))
    assert first != list(islice(draw_documents(1, 6), 40))
    assert first != list(islice(draw_documents(2, 5), 40))


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


def test_training_is_reproducible_and_its_checkpoints_load_offline_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    budget = train.Budget(steps=6, seconds=600)
    first = train.train(tmp_path / "a", budget, 0, Console(quiet=True))
    second = train.train(tmp_path / "b", budget, 0, Console(quiet=True))

    assert [each.name for each in first] == ["step-00001", "step-00003", "step-00006"]
    assert first == second
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [each.name for each in first]
    for saved in first:
        one, other = (tmp_path / run / saved.name for run in "ab")
        names = {
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        assert names <= {path.name for path in one.iterdir()}
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
        loaded = AutoModelForCausalLM.from_pretrained(one)
        tokenizer = AutoTokenizer.from_pretrained(one)
        assert loaded.config.architectures == ["LlamaForCausalLM"]
        assert loaded.config.max_position_embeddings == 4096
        assert tokenizer.chat_template
        assert torch.isfinite(loaded(torch.tensor([tokenizer("What is 2 + 3?")["input_ids"]])).logits).all()


def test_finished_checkpoints_are_kept_until_the_recipe_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []

    def pretend(out: Path, budget: train.Budget, seed: int, console: object) -> list[train.Saved]:
        trained.append(budget.steps)
        (out / "step-00003").mkdir()
        (out / "step-00003" / "model.safetensors").touch()
        return [train.Saved("step-00003", 3, Skills(0.1, 0.2, 0.3, 0.4))]

    def run(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["train", "--out", str(tmp_path), *arguments])
        train.main()

    monkeypatch.setattr(train, "train", pretend)
    run("--steps", "9")
    run("--steps", "9")
    assert trained == [9]
    (tmp_path / "step-00003" / "model.safetensors").unlink()
    run("--steps", "9")
    assert trained == [9, 9]
    run("--steps", "10")
    assert trained == [9, 9, 10]


def test_a_budget_that_is_too_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--out", str(tmp_path / "x"), "--steps", "1"])
    with pytest.raises(SystemExit) as caught:
        train.main()
    assert caught.value.code == 2
    assert not (tmp_path / "x").exists()
