import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from services.generation.foreign.errors import ForeignTokenizerError, ForeignUnsupportedError
from services.generation.foreign.tokenizer import ForeignTokenizer, tokenizer_digest
from services.generation.requests import Turn
from services.inference.contract import Message, messages_to_json
from services.inference.engines.prompts import PromptEncoder
from services.inference.failures import InferenceFailure
from services.runtime.errors import FailedPreconditionError, FleetError, InvalidArgumentError
from tests.fakes.tokenizer_folder import TEMPLATE, write_tokenizer

TURNS = (Turn("system", "Be brief."), Turn("user", "2 + 3?"))
RENDERED = "<s><|system|>Be brief.</s><|user|>2 + 3?</s><|assistant|>"


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> ForeignTokenizer:
    return ForeignTokenizer.load(tokenizer_folder)


def server_ids(folder: Path, text: str) -> list[int]:
    """What a server reads: it adds the tokenizer's special tokens to whatever comes."""
    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    return ids


def plain_ids(folder: Path, text: str) -> list[int]:
    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return ids


def test_a_rendered_bos_is_left_to_a_server_that_adds_one(tokenizer: ForeignTokenizer, tokenizer_folder: Path) -> None:
    wire = tokenizer.wire_prompt(TURNS)
    assert wire.text == RENDERED.removeprefix("<s>")
    assert server_ids(tokenizer_folder, wire.text) == plain_ids(tokenizer_folder, RENDERED)
    assert wire.token_count == len(plain_ids(tokenizer_folder, RENDERED))


def test_a_rendered_bos_is_sent_to_a_server_that_adds_none(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, adds="$A")
    wire = ForeignTokenizer.load(folder).wire_prompt(TURNS)
    assert wire.text == RENDERED
    assert server_ids(folder, wire.text) == plain_ids(folder, RENDERED)


def test_what_no_text_can_say_is_refused(tmp_path: Path) -> None:
    """A tokenizer that appends EOS to every text can only send texts, no conversations."""
    tokenizer = ForeignTokenizer.load(write_tokenizer(tmp_path, adds="<s> $A </s>"))
    assert tokenizer.wire_prompt("2 + 3 =").text == "2 + 3 ="
    with pytest.raises(ForeignUnsupportedError) as caught:
        tokenizer.wire_prompt(TURNS)
    assert caught.value.reason == "FOREIGN_PROMPT_INEXPRESSIBLE"


@settings(max_examples=50)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), begins=st.sampled_from(["", "<s>"])
)
def test_a_text_is_read_as_our_own_engines_read_it(tokenizer_folder: Path, text: str, begins: str) -> None:
    wire = ForeignTokenizer.load(tokenizer_folder).wire_prompt(begins + text)
    has_bos = bool(begins) or text.startswith("<s>")
    meant = plain_ids(tokenizer_folder, begins + text if has_bos else "<s>" + text)
    assert server_ids(tokenizer_folder, wire.text) == meant
    assert wire.token_count == len(meant)


def test_an_assistants_last_turn_is_continued(tokenizer: ForeignTokenizer) -> None:
    wire = tokenizer.wire_prompt((*TURNS, Turn("assistant", "The answer is")))
    assert wire.text.endswith("<|assistant|>The answer is")


WHITE_SPACE = (
    "{{ bos_token }}\n{%- for message in messages %}\n"
    "    {%- if message.role == 'user' and loop.first %}{{ message | tojson }}{% endif %}\n"
    "    {%- if loop.index > 5 %}{% break %}{% endif %}\n"
    "  [{{ message.role }}]{% generation %} {{ message.content }}{% endgeneration %}\n{% endfor %}\n"
    "{%- if add_generation_prompt %}[assistant]{% endif %}"
)
REJECTING = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no turns') }}{% endif %}"
    "{{ message['content'] | trim }}{{ eos_token }}{% endfor %}"
)
conversations = st.lists(
    st.builds(Turn, st.sampled_from(["user", "assistant"]), st.text(" ab<é\n", min_size=1, max_size=6)),
    min_size=1,
    max_size=4,
).map(tuple)


@pytest.fixture(scope="module", params=[TEMPLATE, WHITE_SPACE, REJECTING], ids=["plain", "white space", "rejecting"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ForeignTokenizer, Any]:
    """Our tokenizer and transformers' of the same folder."""
    from transformers import PreTrainedTokenizerFast

    folder = write_tokenizer(tmp_path_factory.mktemp("template"), template=request.param, eos_token="</s>")
    return ForeignTokenizer.load(folder), PreTrainedTokenizerFast.from_pretrained(folder)


@settings(max_examples=100)
@given(turns=conversations)
def test_templates_are_rendered_as_our_own_engines_render_them(
    both: tuple[ForeignTokenizer, Any], turns: tuple[Turn, ...]
) -> None:
    ours, theirs = both
    encoder = PromptEncoder(theirs, 10_000)
    messages = [Message(turn.role, turn.content) for turn in turns]
    try:
        expected = encoder.encode(encoder.render(messages_to_json(messages)))
    except InferenceFailure:
        with pytest.raises(InvalidArgumentError, match="rejects this conversation"):
            ours.wire_prompt(turns)
        return
    wire = ours.wire_prompt(turns)
    assert theirs.encode(wire.text) == list(expected)
    assert wire.token_count == len(expected)


def test_a_conversation_that_the_template_rejects_is_the_callers_error(tokenizer: ForeignTokenizer) -> None:
    with pytest.raises(InvalidArgumentError, match="nothing but a system") as caught:
        tokenizer.wire_prompt((Turn("system", "Be brief."),))
    assert caught.value.reason == "CHAT_TEMPLATE_REJECTED"


def test_a_template_cannot_reach_out_of_its_sandbox(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, template="{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(InvalidArgumentError) as caught:
        ForeignTokenizer.load(folder).wire_prompt(TURNS)
    assert caught.value.reason == "CHAT_TEMPLATE_REJECTED"


def test_without_a_template_there_are_no_conversations(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        ForeignTokenizer.load(write_tokenizer(tmp_path, template=None)).wire_prompt(TURNS)
    assert caught.value.reason == "CHAT_TEMPLATE_MISSING"


def test_choices_of_one_token_follow_their_context(tokenizer: ForeignTokenizer, tokenizer_folder: Path) -> None:
    wire = tokenizer.wire_choices("The answer is ", ["A", "B"])
    assert wire.context.text == "The answer is"
    context = server_ids(tokenizer_folder, "The answer is")
    assert wire.context.token_count == len(context)
    for choice, token in zip("AB", wire.token_ids, strict=True):
        assert server_ids(tokenizer_folder, f"The answer is {choice}") == [*context, token]


def test_a_choice_of_several_tokens_is_refused_by_its_index(tokenizer: ForeignTokenizer) -> None:
    with pytest.raises(ForeignUnsupportedError) as caught:
        tokenizer.wire_choices("The answer is", [" A", " something else"])
    assert caught.value.reason == "FOREIGN_SCORING_UNSUPPORTED"
    assert caught.value.metadata["index"] == "1"


@pytest.mark.parametrize("context", ["", "  "])
def test_a_context_of_nothing_cannot_be_sent(tokenizer: ForeignTokenizer, context: str) -> None:
    with pytest.raises(FleetError) as caught:
        tokenizer.wire_choices(context, ["A"])
    assert caught.value.reason == "FOREIGN_PROMPT_INEXPRESSIBLE"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "no JSON"),
        ("tokenizer_config.json", "[1]"),
        ("config.json", "{"),
        ("tokenizer_config.json", json.dumps({"chat_template": 5})),
        ("chat_template.jinja", "{% for %}"),
    ],
)
def test_a_damaged_folder_is_a_typed_error(tmp_path: Path, file: str, content: str) -> None:
    folder = write_tokenizer(tmp_path)
    (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(ForeignTokenizerError):
        ForeignTokenizer.load(folder)


def test_the_digest_covers_what_is_read_and_no_weights(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path)
    before = tokenizer_digest(folder)
    (folder / "model.safetensors").write_bytes(b"x")
    assert tokenizer_digest(folder) == before
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert tokenizer_digest(folder) != before
