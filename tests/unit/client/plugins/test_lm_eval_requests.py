"""What the harness asks, as requests: grouped by context, options by their names, conversations as texts."""

import pytest
from evalfleet.errors import InvalidArgumentError
from evalfleet.plugins.lm_eval import chats
from evalfleet.plugins.lm_eval.grouping import ContextGroup, PromptGroup, by_context, by_prompt
from evalfleet.plugins.lm_eval.wishes import Wishes


def test_a_context_is_asked_once_with_all_that_follows_it() -> None:
    pairs = [("q2", " a"), ("q1", " a"), ("q2", " b"), ("q1", " a")]
    assert by_context(pairs) == [
        ContextGroup("q1", (" a",), ((1, 3),)),
        ContextGroup("q2", (" a", " b"), ((0,), (2,))),
    ]


def test_contexts_with_the_same_beginning_are_neighbours() -> None:
    pairs = [(f"{subject} example\n\n{number}", "a") for number in range(3) for subject in ("b", "a")]
    assert [each.context[0] for each in by_context(pairs)] == ["a"] * 3 + ["b"] * 3


def test_a_group_is_no_larger_than_a_request_may_be() -> None:
    groups = by_context([("q", str(number)) for number in range(300)])
    assert [len(each.continuations) for each in groups] == [256, 44]
    assert [place for each in groups for (place,) in each.places] == list(range(300))
    assert [len(each.places) for each in by_prompt([("q", None)] * 200)] == [128, 72]


def test_a_prompt_that_is_asked_again_is_one_request_for_several_samples() -> None:
    assert by_prompt([("q", 1), ("p", 1), ("q", 1), ("q", 2)]) == [
        PromptGroup("p", 1, (1,)),
        PromptGroup("q", 1, (0, 2)),
        PromptGroup("q", 2, (3,)),
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"until": "\n"}, Wishes(("\n",), 256, 0.0, None, None, None)),
        ({"until": ["a", ""], "max_gen_toks": 7}, Wishes(("a",), 7, 0.0, None, None, None)),
        ({"temperature": 0.7, "do_sample": False, "top_p": 0.5}, Wishes((), 256, 0.0, None, None, None)),
        ({"temperature": 0.7, "top_p": 0.5, "top_k": 3, "seed": 4}, Wishes((), 256, 0.7, 0.5, 3, 4)),
        ({"do_sample": True, "max_tokens": 9}, Wishes((), 9, 1.0, None, None, None)),
        ({"max_new_tokens": 3, "max_tokens": 9}, Wishes((), 3, 0.0, None, None, None)),
    ],
)
def test_options_mean_what_they_mean_in_the_harness(options: dict[str, object], expected: Wishes) -> None:
    assert Wishes.read(options) == expected


def test_an_option_that_the_fleet_has_not_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match="'min_p'") as refused:
        Wishes.read({"min_p": 0.1})
    assert refused.value.reason == "OPTION_NOT_OFFERED"


def test_a_conversation_comes_back_as_it_was() -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'Say "é"\n'}]
    conversation = chats.conversation(chats.written(turns))
    assert conversation is not None
    assert [each.content for each in conversation.messages] == ["Be brief.", 'Say "é"\n']
    assert chats.conversation("Question: ?") is None


@pytest.mark.parametrize("broken", ["[]x", '[{"role": "tool", "content": "a"}]', '[{"role": "user"}]', "{"])
def test_a_conversation_that_was_changed_is_refused(broken: str) -> None:
    mark = chats.written([]).removesuffix("[]")
    with pytest.raises(InvalidArgumentError, match="cannot be read back"):
        chats.conversation(mark + broken)
