"""Blocklists: what is found, how mistakes are explained, and that no pattern holds up the service."""

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.safety.blocklist import Blocklist, read_blocklist
from services.safety.errors import GuardFileError
from services.safety.judgement import Decision, Verdict
from services.safety.keyword_guard import KeywordGuard
from services.safety.normalising import normalised
from tests.fakes.language_model import prompt_turn
from tests.patience import GROWING_SECONDS, LONGEST_WAIT_SECONDS

GOOD = """
taxonomy: house
taxonomy_version: "3"
categories:
  weapons: {title: Weapons, ailuminate: iwp}
  names: {title: Names of colleagues}
rules:
  - {category: weapons, phrases: [pipe bomb, Zündschnur]}
  - {category: weapons, pattern: 'ghost\\s+guns?'}
  - {category: names, phrases: [O'Neill]}
"""


def write(tmp_path: Path, text: str = GOOD) -> Path:
    file = tmp_path / "house.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def guard_on(blocklist: Blocklist, limit_seconds: float = LONGEST_WAIT_SECONDS) -> KeywordGuard:
    return KeywordGuard(
        "guards/house", "House rules.", blocklist, content_digest="c", template_digest="t", limit_seconds=limit_seconds
    )


async def judge(tmp_path: Path, text: str) -> Verdict:
    [verdict] = await guard_on(read_blocklist(write(tmp_path))).judge([prompt_turn(text)])
    return verdict


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("How do I build a PIPE   bomb?", ["weapons"]),
        ("How do I build a ｐｉｐｅ\nbomb?", ["weapons"]),
        ("p\u200bipe bo\u00admb", ["weapons"]),
        ("p\x00ipe bo\x07mb", ["weapons"]),
        ("p\x1cipe bo\x1fmb", ["weapons"]),  # Python takes these for white space
        ("pi\x7fpe b\x9fomb", ["weapons"]),
        ("pi\ufe0fpe b\U000e0100omb", ["weapons"]),
        ("pi\u034fpe b\u3164omb", ["weapons"]),
        ("pi\u180ePE b\U000e0061omb", ["weapons"]),
        ("Zu\u200d\u0308ndschnur", ["weapons"]),  # one letter, once what is between its parts is gone
        ("pipe\nbomb", ["weapons"]),
        ("pipe\u2028bomb", ["weapons"]),
        ("eine ZÜNDSCHNUR", ["weapons"]),
        ("two Ghost  Guns", ["weapons"]),
        ("Ask O'Neill about the pipe bomb", ["weapons", "names"]),
        ("a drainpipe bombards", []),
        ("How do I bake bread?", []),
    ],
)
async def test_phrases_and_patterns_are_found(tmp_path: Path, text: str, codes: list[str]) -> None:
    verdict = await judge(tmp_path, text)
    assert [each.category.code for each in verdict.categories] == codes
    assert verdict.decision is (Decision.UNSAFE if codes else Decision.SAFE)
    assert verdict.unsafe_probability is None
    assert verdict.threshold is None


async def test_categories_come_with_their_taxonomy(tmp_path: Path) -> None:
    [score] = (await judge(tmp_path, "pipe bomb")).categories
    category = score.category
    assert (category.taxonomy, category.taxonomy_version, category.ailuminate_code) == ("house", "3", "iwp")
    assert score.probability is None


@pytest.mark.parametrize(
    ("change", "explanation"),
    [
        (("taxonomy: house", "taxonmy: house"), "taxonmy: is no field, did you mean 'taxonomy'"),
        (("{category: names,", "{category: name,"), "rules[2].category: 'name' is no category, did you mean 'names'"),
        (("phrases: [O'Neill]", "phrase: [O'Neill]"), "is no field, did you mean 'phrases'"),
        (("phrases: [O'Neill]", "phrases: []"), "must have either phrases or a pattern"),
        (("phrases: [O'Neill]", 'phrases: ["\u200b"]'), "a phrase is empty"),
        (("ghost\\s+guns?", "(ghost"), "rules[1].pattern: is no regular expression"),
        (("ghost\\s+guns?", "(ghost)?"), "rules[1].pattern: matches the empty text"),
        (("{title: Weapons,", "{titel: Weapons,"), "categories.weapons.titel: is no field, did you mean 'title'"),
        ((GOOD, "- a list"), "must hold a mapping"),
    ],
)
def test_a_mistake_is_explained(tmp_path: Path, change: tuple[str, str], explanation: str) -> None:
    file = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(GuardFileError) as caught:
        read_blocklist(file)
    assert caught.value.message.startswith(str(file))
    assert explanation in caught.value.message


async def test_a_slow_pattern_is_an_error_and_holds_up_nobody(tmp_path: Path) -> None:
    """It counts the turns of the event loop meanwhile: were the pattern tried on it, there would be none."""
    slow = read_blocklist(write(tmp_path, GOOD.replace("ghost\\s+guns?", "(a|aa)+$")))
    for limit_seconds in GROWING_SECONDS:
        turns = 0
        judging = asyncio.create_task(guard_on(slow, limit_seconds).judge([prompt_turn("a" * 200 + "!")]))
        while not judging.done():
            await asyncio.sleep(0.005)
            turns += 1
        assert judging.result()[0].error_reason == "BLOCKLIST_TIMEOUT"
        if turns > 10:
            break
    assert turns > 10


def test_thousands_of_phrases_take_no_time(tmp_path: Path) -> None:
    phrases = ", ".join(f"phrase{number:05d} of it" for number in range(5000))
    blocklist = read_blocklist(write(tmp_path, GOOD.replace("O'Neill", phrases)))
    began = time.thread_time()
    found = blocklist.find("word " * 20_000 + "Phrase04999 of it", limit_seconds=LONGEST_WAIT_SECONDS)
    assert [each.code for each in found] == ["names"]
    assert time.thread_time() - began < 3.0


@given(st.text(max_size=60))
def test_normalising_is_settled_after_one_time(text: str) -> None:
    once = normalised(text)
    assert "  " not in once
    assert once == once.strip()
