"""The prompt, the choices and the answers that a row becomes."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.evaluation.items import ChatPrompt, InvalidItem, Item, Message, PlainPrompt
from services.evaluation.loading import LoadedTask

Load = Callable[[Mapping[str, Any], Mapping[str, bytes]], LoadedTask]
Lines = Callable[..., bytes]
ValidItem = Callable[[LoadedTask, int], Item]


def test_a_plain_prompt_with_examples(
    load: Load, definition: dict[str, Any], sums: bytes, valid_item: ValidItem
) -> None:
    examples = [{"question": "0+1", "answer": "1"}, {"question": "not", "answer": "used"}]
    content = definition | {"preamble": "Add.\n\n", "few_shot": {"count": 1, "examples": examples}}
    item = valid_item(load(content, {"sums.jsonl": sums}), 0)
    assert item.prompt == PlainPrompt("Add.\n\nQ: 0+1\nA: 1\n\nQ: 1+1\nA:")
    assert item.targets == ("2",)
    assert item.multiple_choice is None


def test_the_answer_of_an_example_may_be_longer_than_the_target(
    load: Load, definition: dict[str, Any], sums: bytes, valid_item: ValidItem
) -> None:
    few_shot = {
        "count": 1,
        "examples": [{"question": "0+1", "answer": "1"}],
        "answer": "{{ question }} is {{ answer }}",
        "separator": "\n--\n",
    }
    item = valid_item(load(definition | {"few_shot": few_shot, "delimiter": "\n"}, {"sums.jsonl": sums}), 0)
    assert item.prompt == PlainPrompt("Q: 0+1\nA:\n0+1 is 1\n--\nQ: 1+1\nA:")


def test_a_chat_with_examples(load: Load, definition: dict[str, Any], sums: bytes, valid_item: ValidItem) -> None:
    content = definition | {
        "format": "chat",
        "prompt": "{{ question }}?",
        "preamble": "Add.",
        "few_shot": {"count": 1, "examples": [{"question": "0+1", "answer": "1"}]},
    }
    assert valid_item(load(content, {"sums.jsonl": sums}), 0).prompt == ChatPrompt(
        (Message("system", "Add."), Message("user", "0+1?"), Message("assistant", "1"), Message("user", "1+1?"))
    )


def test_an_item_is_no_example_of_itself(
    load: Load, definition: dict[str, Any], sums: bytes, valid_item: ValidItem
) -> None:
    loaded = load(definition | {"few_shot": {"count": 2, "split": "test"}}, {"sums.jsonl": sums})
    assert valid_item(loaded, 0).prompt == PlainPrompt("Q: 2+2\nA: 4\n\nQ: 3+3\nA: 6\n\nQ: 1+1\nA:")
    assert valid_item(loaded, 2).prompt == PlainPrompt("Q: 1+1\nA: 2\n\nQ: 2+2\nA: 4\n\nQ: 3+3\nA:")


def test_choices_share_one_context(
    load: Load, choice_definition: dict[str, Any], lines: Lines, valid_item: ValidItem
) -> None:
    few_shot = {"count": 1, "examples": [{"question": "5", "answer": "1"}]}
    loaded = load(
        choice_definition | {"delimiter": "_", "few_shot": few_shot},
        {"sums.jsonl": lines({"question": "9", "answer": "0"})},
    )
    question = valid_item(loaded, 0).multiple_choice
    assert question is not None
    (group,) = question.groups()
    assert group.context == PlainPrompt("Q: 5\nA:_no\n\nQ: 9\nA:")
    assert (group.continuations, group.choice_indices) == (("_yes", "_no"), (0, 1))
    assert question.gold_indices == (0,)
    assert [choice.text for choice in question.choices] == ["yes", "no"]


def test_a_context_may_depend_on_the_choice(
    load: Load, choice_definition: dict[str, Any], lines: Lines, valid_item: ValidItem
) -> None:
    content = choice_definition | {
        "choices": "['Ann', 'Bob', 'Ann']",
        "prompt": "{{ choice }} said",
        "continuation": "{{ question }}",
        "gold": "[2, 0, 0]",
    }
    loaded = load(content, {"sums.jsonl": lines({"question": "hi", "answer": ""})})
    question = valid_item(loaded, 0).multiple_choice
    assert question is not None
    ann, bob = question.groups()
    assert (ann.context, ann.continuations, ann.choice_indices) == (PlainPrompt("Ann said"), (" hi", " hi"), (0, 2))
    assert (bob.context, bob.continuations, bob.choice_indices) == (PlainPrompt("Bob said"), (" hi",), (1,))
    assert question.gold_indices == (0, 2)


@pytest.mark.parametrize("told", ["", "A{{ answer }}:"])
def test_choices_may_also_follow_something_without_the_question(
    load: Load, choice_definition: dict[str, Any], lines: Lines, valid_item: ValidItem, told: str
) -> None:
    rows = {"sums.jsonl": lines({"question": "9", "answer": "0"})}
    assert valid_item(load(choice_definition, rows), 0).multiple_choice.unconditional_group() is None  # type: ignore[union-attr]
    question = valid_item(load(choice_definition | {"unconditional_prompt": told}, rows), 0).multiple_choice
    assert question is not None
    group = question.unconditional_group()
    assert group is not None
    assert group.context == PlainPrompt(told.replace("{{ answer }}", "0"))
    assert (group.continuations, group.choice_indices) == ((" yes", " no"), (0, 1))


def test_in_a_chat_what_stands_for_the_question_is_a_turn(
    load: Load, choice_definition: dict[str, Any], lines: Lines, valid_item: ValidItem
) -> None:
    rows = {"sums.jsonl": lines({"question": "9", "answer": "0"})}
    chat = choice_definition | {"format": "chat", "unconditional_prompt": "Answer:"}
    question = valid_item(load(chat, rows), 0).multiple_choice
    assert question is not None
    assert question.unconditional == ChatPrompt((Message("user", "Answer:"),))
    (empty,) = load(chat | {"unconditional_prompt": ""}, rows).items()
    assert isinstance(empty, InvalidItem)
    assert "unconditional_prompt" in empty.message


def test_a_text_is_scored_behind_its_prompt_or_by_itself(
    load: Load, definition: dict[str, Any], sums: bytes, valid_item: ValidItem
) -> None:
    texts = definition | {"request": "log_likelihood", "failed_items": "excluded"}
    behind = valid_item(load(texts, {"sums.jsonl": sums}), 0)
    assert (behind.prompt, behind.delimiter, behind.scored_text) == (PlainPrompt("Q: 1+1\nA:"), " ", "2")
    alone = valid_item(load(texts | {"prompt": ""}, {"sums.jsonl": sums}), 0)
    assert (alone.prompt, alone.delimiter, alone.scored_text) == (PlainPrompt(""), "", "2")
    assert not alone.is_answered_with_text
    assert valid_item(load(definition, {"sums.jsonl": sums}), 0).is_answered_with_text
    (several, *_) = load(texts | {"targets": "[answer, question]"}, {"sums.jsonl": sums}).items()
    assert isinstance(several, InvalidItem)
    assert "the one text" in several.message


def test_in_a_chat_nothing_stands_before_the_choice(
    load: Load, choice_definition: dict[str, Any], lines: Lines, valid_item: ValidItem
) -> None:
    rows = {"sums.jsonl": lines({"question": "9", "answer": "0"})}
    question = valid_item(load(choice_definition | {"format": "chat"}, rows), 0).multiple_choice
    assert question is not None
    assert [choice.continuation for choice in question.choices] == ["yes", "no"]
    assert question.choices[0].context == ChatPrompt((Message("user", "Q: 9\nA:"),))


def test_groups_and_clusters_are_text(
    load: Load, definition: dict[str, Any], sums: bytes, valid_item: ValidItem
) -> None:
    groups = {"even": "answer | int % 2 == 0", "size": "question | length"}
    item = valid_item(load(definition | {"groups": groups, "cluster": "answer"}, {"sums.jsonl": sums}), 1)
    assert item.groups == {"even": "true", "size": "3"}
    assert item.cluster == "4"


rows = st.fixed_dictionaries(
    {"question": st.text(), "answer": st.text(st.characters(exclude_categories=["Cs"]), min_size=1)}
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60, deadline=None
)
@given(st.lists(rows, min_size=1, max_size=5))
def test_any_row_becomes_its_prompt_or_a_failed_item(
    load: Load, definition: dict[str, Any], lines: Lines, rows: list[dict[str, str]]
) -> None:
    loaded = load(definition, {"sums.jsonl": lines(*rows)})
    assert len(loaded) == len(rows) == len(set(loaded.item_ids()))
    for row, found in zip(rows, loaded.items(), strict=True):
        if isinstance(found, Item):
            assert found.prompt == PlainPrompt(f"Q: {row['question']}\nA:")
            assert found.targets == (row["answer"],)
        else:
            assert "no valid Unicode" in found.message


class TestIdentity:
    def test_ids_follow_the_content_not_the_place(self, load: Load, definition: dict[str, Any], sums: bytes) -> None:
        before = load(definition, {"sums.jsonl": sums})
        one, two, three = sums.splitlines(keepends=True)
        after = load(definition, {"sums.jsonl": b"\n" + three + one + two})
        assert [tuple(after.item_ids())[index] for index in (1, 2, 0)] == list(before.item_ids())
        assert before.digest != after.digest

    def test_equal_rows_are_told_apart(self, load: Load, definition: dict[str, Any], lines: Lines) -> None:
        rows = lines(*[{"question": "a", "answer": "7"}] * 3)
        assert tuple(load(definition | {"item_id": "answer"}, {"sums.jsonl": rows}).item_ids()) == ("7", "7#2", "7#3")

    def test_an_id_made_unique_never_meets_a_real_one(
        self, load: Load, definition: dict[str, Any], lines: Lines
    ) -> None:
        rows = lines(*({"question": "a", "answer": answer} for answer in ("7", "7", "7#2", "7-2", "7")))
        found = tuple(load(definition | {"item_id": "answer"}, {"sums.jsonl": rows}).item_ids())
        assert len(set(found)) == 5

    @pytest.mark.parametrize(
        ("value", "is_kept"),
        [("a:b/c.d-e_f", True), (12, True), ("a b", False), ("", False), ("x" * 101, False), ([1], False)],
    )
    def test_an_id_that_could_not_stand_in_a_name_becomes_a_digest(
        self, load: Load, definition: dict[str, Any], lines: Lines, value: object, is_kept: bool
    ) -> None:
        content = definition | {"item_id": "answer", "targets": "'x'"}
        (found,) = tuple(load(content, {"sums.jsonl": lines({"question": "q", "answer": value})}).item_ids())
        assert (found == str(value)) is is_kept
        assert 0 < len(found) <= 100

    def test_the_digest_tells_data_definition_and_examples_apart(
        self, load: Load, definition: dict[str, Any], sums: bytes, lines: Lines
    ) -> None:
        plain = load(definition, {"sums.jsonl": sums}).digest
        assert load(definition | {"description": "Other words."}, {"sums.jsonl": sums}).digest == plain
        assert load(definition | {"prompt": "{{ question }}"}, {"sums.jsonl": sums}).digest != plain
        source = {"files": {"test": "sums.jsonl", "train": "train.jsonl"}, "columns": ["question", "answer"]}
        shots = definition | {"sources": [source], "few_shot": {"count": 1, "split": "train"}}
        one = load(shots, {"sums.jsonl": sums, "train.jsonl": lines({"question": "a", "answer": "b"})}).digest
        other = load(shots, {"sums.jsonl": sums, "train.jsonl": lines({"question": "a", "answer": "c"})}).digest
        assert len({plain, one, other}) == 3
