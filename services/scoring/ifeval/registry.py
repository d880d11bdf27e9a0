"""IFEval's 25 instructions by the ids that its rows have."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from services.scoring.ifeval import layout, wording
from services.scoring.ifeval.arguments import Arguments
from services.scoring.patterns import PatternMatcher

Check: TypeAlias = Callable[[str, Arguments, PatternMatcher], bool]

CHECKS: Mapping[str, Check] = {
    "change_case:capital_word_frequency": wording.has_words_in_capitals,
    "change_case:english_capital": wording.is_english_in_capitals,
    "change_case:english_lowercase": wording.is_english_in_small_letters,
    "combination:repeat_prompt": wording.repeats_the_prompt,
    "combination:two_responses": layout.has_two_responses,
    "detectable_content:number_placeholders": layout.has_placeholders,
    "detectable_content:postscript": layout.has_postscript,
    "detectable_format:constrained_response": layout.is_one_of_the_answers,
    "detectable_format:json_format": layout.is_json,
    "detectable_format:multiple_sections": layout.has_sections,
    "detectable_format:number_bullet_lists": layout.has_bullets,
    "detectable_format:number_highlighted_sections": layout.has_highlights,
    "detectable_format:title": layout.has_title,
    "keywords:existence": wording.has_keywords,
    "keywords:forbidden_words": wording.lacks_words,
    "keywords:frequency": wording.has_keyword_as_often,
    "keywords:letter_frequency": wording.has_letter_as_often,
    "language:response_language": wording.is_in_the_language,
    "length_constraints:nth_paragraph_first_word": layout.has_paragraph_beginning,
    "length_constraints:number_paragraphs": layout.has_divided_paragraphs,
    "length_constraints:number_sentences": wording.has_sentences,
    "length_constraints:number_words": wording.has_words,
    "punctuation:no_comma": wording.lacks_commas,
    "startend:end_checker": wording.ends_with_the_phrase,
    "startend:quotation": layout.is_quoted,
}
