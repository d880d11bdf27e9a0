import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.contract import Message, TemplatePrompt, messages_to_json
from services.inference.engines.prompts import PromptEncoder, RenderedPrompt
from services.inference.failures import InferenceFailure

TEXT = st.text(alphabet="The quick brown. é\n🙂<s>", max_size=20)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> PromptEncoder:
    return PromptEncoder(tokenizer, len(tokenizer))


def plain(text: str) -> RenderedPrompt:
    return RenderedPrompt(text, is_rendered=False)


def conversation(*turns: tuple[str, str]) -> str:
    return json.dumps([{"role": role, "content": content} for role, content in turns])


def test_a_text_gets_the_tokenizers_special_tokens_once(encoder: PromptEncoder, tokenizer: Any) -> None:
    ids = encoder.encode(plain("The quick"))
    assert ids[0] == tokenizer.bos_token_id
    assert ids == encoder.encode(plain("<s>The quick"))
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_rendered_conversation_gets_no_second_bos(encoder: PromptEncoder, tokenizer: Any) -> None:
    rendered = encoder.render(conversation(("system", "Be brief."), ("user", "Hi")))
    assert rendered.text == "<s><|system|>Be brief.</s><|user|>Hi</s><|assistant|>"
    ids = encoder.encode(rendered)
    assert tokenizer.decode(ids) == rendered.text
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_begun_answer_is_continued(encoder: PromptEncoder) -> None:
    rendered = encoder.render(conversation(("user", "Hi"), ("assistant", "The answer is")))
    assert rendered.text == "<s><|user|>Hi</s><|assistant|>The answer is"


def material(*turns: tuple[str, str], as_parts: bool = False, **variables: object) -> str:
    messages = [Message(role, content) for role, content in turns]
    return messages_to_json(TemplatePrompt(messages, variables, as_parts=as_parts))


def test_a_conversation_to_judge_is_followed_by_the_models_turn(encoder: PromptEncoder) -> None:
    rendered = encoder.render(material(("user", "Hi"), ("assistant", "The answer is")))
    # This template has no end of turn behind a last answer; it is the opened turn that matters.
    assert rendered.text == "<s><|user|>Hi</s><|assistant|>The answer is<|assistant|>"


def test_a_template_gets_variables_and_parts(tokenizer: Any) -> None:
    own = copy.deepcopy(tokenizer)
    own.chat_template = (
        "{{ guideline }}:{% for m in messages %}{{ m.content[0].type }}={{ m.content[0].text }}{% endfor %}"
    )
    encoder = PromptEncoder(own, len(own))
    assert encoder.render(material(("user", "Hi"), as_parts=True, guideline="Rule")).text == "Rule:text=Hi"


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"messages": [], "variables": {}, "as_parts": False},
        {"messages": [{"role": "user", "content": "Hi"}], "variables": [], "as_parts": False},
        {"messages": [{"role": "user", "content": "Hi"}], "variables": {}, "as_parts": 1},
        {"messages": [{"role": "user", "content": "Hi"}], "variables": {"tokenize": True}, "as_parts": False},
        {"messages": [{"role": "user", "content": "Hi"}], "variables": {"chat_template": "x"}, "as_parts": False},
    ],
)
def test_a_bad_conversation_to_judge_is_refused(encoder: PromptEncoder, body: object) -> None:
    with pytest.raises(InferenceFailure) as caught:
        encoder.render(json.dumps(body))
    assert caught.value.reason == "MESSAGES_INVALID"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (conversation(("judge", "Hi")), "CHAT_TEMPLATE_REJECTED"),
        ("[]", "MESSAGES_INVALID"),
        ("{}", "MESSAGES_INVALID"),
        ("[3]", "MESSAGES_INVALID"),
        ('[{"role": "user"}]', "MESSAGES_INVALID"),
        ('[{"role": "user", "content": 3}]', "MESSAGES_INVALID"),
        ("[" * 100_000, "MESSAGES_INVALID"),
        ("nonsense", "MESSAGES_INVALID"),
        ("1" * 5000, "MESSAGES_INVALID"),
    ],
)
def test_a_bad_conversation_is_refused(encoder: PromptEncoder, messages: str, reason: str) -> None:
    with pytest.raises(InferenceFailure) as caught:
        encoder.render(messages)
    assert caught.value.reason == reason
    assert caught.value.field == "messages"


@pytest.mark.parametrize("template", ["{{ 1 // 0 }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"])
def test_a_template_that_fails_rejects_the_conversation(tokenizer: Any, template: str) -> None:
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = template
    with pytest.raises(InferenceFailure) as caught:
        PromptEncoder(tokenizer, 1000).render(conversation(("user", "Hi")))
    assert caught.value.reason == "CHAT_TEMPLATE_REJECTED"


def test_a_checkpoint_without_template_says_so(tiny_checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.chat_template = None
    with pytest.raises(InferenceFailure) as caught:
        PromptEncoder(tokenizer, 1000).render(conversation(("user", "Hi")))
    assert (caught.value.reason, caught.value.code) == ("CHAT_TEMPLATE_MISSING", "FAILED_PRECONDITION")


def harness_split(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Split as the definition says: spaces move, the whole is cut after the context's own token count."""
    bos = tokenizer.bos_token

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=not text.startswith(bos)))

    if context == "":
        ids = list(tokenizer.encode(continuation, add_special_tokens=False))
        if ids[0] == tokenizer.bos_token_id:
            return ids[:1], ids[1:]
        return [tokenizer.bos_token_id], ids
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    whole, own = encode(context + continuation), encode(context)
    return own, whole[len(own) :]


@given(context=TEXT, continuations=st.lists(TEXT.filter(bool), min_size=1, max_size=3))
def test_scoring_splits_like_the_harness(
    encoder: PromptEncoder, tokenizer: Any, context: str, continuations: list[str]
) -> None:
    expected = [harness_split(tokenizer, context, each) for each in continuations]
    if not all(ids for _, ids in expected):
        with pytest.raises(InferenceFailure, match="adds no token"):
            encoder.encode_scoring(plain(context), continuations)
        return
    encoded = encoder.encode_scoring(plain(context), continuations)
    assert [(list(encoded.context), list(ids)) for ids in encoded.continuations] == expected


def test_a_token_that_the_model_does_not_know_is_refused(tokenizer: Any) -> None:
    encoder = PromptEncoder(tokenizer, 10)
    with pytest.raises(InferenceFailure) as caught:
        encoder.encode(plain("The quick"))
    assert caught.value.reason == "TOKEN_OUT_OF_VOCABULARY"


def test_without_bos_and_eos_an_empty_context_is_refused(tiny_checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(InferenceFailure) as caught:
        PromptEncoder(tokenizer, 1000).encode_scoring(plain(""), ["x"])
    assert caught.value.reason == "PROMPT_EMPTY"
