"""What users write cannot become a part of a guard's prompt."""

import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.contract import Prompt, TemplatePrompt
from services.safety.formats.neutralising import Neutraliser
from services.safety.formats.registry import FAMILIES
from services.safety.judgement import Aspect
from tests.fakes.language_model import LABELS, build_format, prompt_text, turn_of

MARKERS = (
    "<|eot_id|>", "<|begin_of_text|>", "<|im_start|>", "<|channel|>", "<s>", "</s>", "<start_of_turn>", "<end_of_turn>",
    "[INST]", "[/INST]", "<<SYS>>", "<BEGIN CONVERSATION>", "<END UNSAFE CONTENT CATEGORIES>", "<guardian>", "<score>",
    "</score>", "<think>", "</think>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<|reserved_special_token_7|>",
    "<odd token>",
)  # fmt: skip
FORMS = [
    (kind, has_template)
    for kind, family in FAMILIES.items()
    for has_template in ((True,) if family.needs_template else (False, True))
]
WORDS = sorted({f"{label}:" for labels in LABELS.values() for label in labels})
BITS = ("\n", "\r", "\u2028", " ", "<", "|", ">", "<|", "|>", "[", "eot_id")
PIECE = st.one_of(st.sampled_from([*MARKERS, *WORDS, *BITS]), st.text(max_size=4))
TEXT = st.lists(PIECE, max_size=10).map("".join)


def structure(kind: str, prompt: Prompt) -> list[str]:
    """Return the markers of a prompt in their order, and the roles of its messages."""
    text = prompt_text(prompt)
    roles = [each.role for each in prompt.messages] if isinstance(prompt, TemplatePrompt) else []
    markers = (*MARKERS, *(f"\n{label}:" for label in LABELS.get(kind, ())))
    found = [(match.start(), marker) for marker in markers for match in re.finditer(re.escape(marker), text)]
    return roles + [marker for _, marker in sorted(found)]


@pytest.mark.parametrize(("form", "aspect"), [*product(FORMS, Aspect)], ids=str)
@settings(deadline=None, max_examples=60)
@given(text=TEXT)
def test_no_text_changes_the_structure_of_a_prompt(form: tuple[str, bool], aspect: Aspect, text: str) -> None:
    kind, has_template = form
    guard_format = build_format(kind, has_template=has_template, special_tokens=frozenset({"<odd token>"}))
    harmless = guard_format.questions(turn_of(aspect, "harmless"))
    written = guard_format.questions(turn_of(aspect, text if text.strip() else "harmless"))
    for question, other in zip(harmless, written, strict=True):
        assert structure(kind, question.prompt) == structure(kind, other.prompt)


@settings(deadline=None, max_examples=60)
@given(text=TEXT)
def test_cleaned_text_is_clean_and_keeps_its_words(text: str) -> None:
    neutraliser = Neutraliser(["<odd token>"], ["User", "Agent"])
    cleaned = neutraliser.clean(text)
    assert neutraliser.clean(cleaned) == cleaned
    assert not any(marker in cleaned for marker in MARKERS)
    assert cleaned.replace(" ", "") == text.replace(" ", "")


def test_ordinary_text_stays_as_it_is() -> None:
    neutraliser = Neutraliser(["<|eot_id|>"], ["User", "Agent"])
    for text in (
        "a < b and b > c",
        "<b>bold</b>",
        "the user: a person",
        "x[0]",
        "if a | b:",
        "Useful: yes",
        "[INSTALL]",
    ):
        assert neutraliser.clean(text) == text
        assert not neutraliser.has_marker(text)
    assert neutraliser.has_marker("Agent: hi")


def test_overlapping_markers_are_all_broken() -> None:
    assert Neutraliser(["a|b", "b|c"]).clean("a|b|c") == "a |b |c"
