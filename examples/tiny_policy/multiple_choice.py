"""Multiple-choice questions over the closed world, a quarter of which training never shows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random

from examples.tiny_policy import facts
from examples.tiny_policy.documents import Form, Turn, is_held_out

HELD_OUT_ONE_IN = 4
CHOICE_COUNT = 4


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its choices in the order shown.

    Attributes:
        text: The question alone.
        choices: Four different option texts.
        answer: Index of the right choice.
    """

    text: str
    choices: tuple[str, ...]
    answer: int

    @property
    def is_held_out(self) -> bool:
        """Whether training never asks this wording about this answer, whatever the other choices."""
        return is_held_out(f"{self.text}\n{self.choices[self.answer]}", HELD_OUT_ONE_IN)


def _ask(rng: Random, text: str, answer: str, others: Iterable[str]) -> Question:
    pool = [other for other in dict.fromkeys(others) if other != answer]
    choices = [answer, *rng.sample(pool, CHOICE_COUNT - 1)]
    rng.shuffle(choices)
    return Question(text, tuple(choices), choices.index(answer))


def _an(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _ask_lookup(rng: Random, wordings: tuple[str, ...], table: Mapping[str, str]) -> Question:
    subject = rng.choice(sorted(table))
    return _ask(rng, rng.choice(wordings).format(s=subject, an=_an(subject)), table[subject], table.values())


def _colour(rng: Random) -> Question:
    wordings = ("What colour is {s}?", "Which colour does {s} have?")
    return _ask_lookup(rng, wordings, facts.COLOURS)


def _young(rng: Random) -> Question:
    wordings = ("What is a young {s} called?", "What do we call the young of a {s}?")
    return _ask_lookup(rng, wordings, facts.YOUNG)


def _home(rng: Random) -> Question:
    wordings = ("Where does a {s} live?", "What is the home of a {s}?")
    return _ask_lookup(rng, wordings, facts.HOMES)


def _legs(rng: Random) -> Question:
    wordings = ("How many legs does {an} have?", "What number of legs has {an}?")
    return _ask_lookup(rng, wordings, facts.LEGS)


def _kind_of(rng: Random) -> Question:
    wordings = ("What is {s}?", "What kind of thing is {s}?")
    return _ask_lookup(rng, wordings, _kinds())


@cache
def _kinds() -> Mapping[str, str]:
    return {member: kind for kind, members in facts.CATEGORIES.items() for member in members}


def _opposite(rng: Random) -> Question:
    wordings = ("What is the opposite of {s}?", "Which word means the opposite of {s}?")
    subject, answer = rng.sample(rng.choice(facts.OPPOSITES), 2)
    others = (word for pair in facts.OPPOSITES for word in pair if word != subject)
    return _ask(rng, rng.choice(wordings).format(s=subject), answer, others)


def _next_in_order(rng: Random) -> Question:
    wordings = ("Which {u} comes after {s}?", "What {u} follows {s}?")
    unit = rng.choice(sorted(facts.SEQUENCES))
    sequence = facts.SEQUENCES[unit]
    place = rng.randrange(len(sequence))
    answer = sequence[(place + 1) % len(sequence)]
    others = (word for word in sequence if word != sequence[place])
    return _ask(rng, rng.choice(wordings).format(u=unit, s=sequence[place]), answer, others)


# How often each kind of question is asked.
_FAMILIES: Mapping[Callable[[Random], Question], float] = {
    _colour: 3,
    _kind_of: 3,
    _opposite: 3,
    _young: 1,
    _home: 1,
    _legs: 1,
    _next_in_order: 2,
}


def draw_question(rng: Random, *, held_out: bool) -> Question:
    """Draw a question from the training part or from the held-out part."""
    while True:
        question = rng.choices(tuple(_FAMILIES), tuple(_FAMILIES.values()))[0](rng)
        if question.is_held_out == held_out:
            return question


def lay_out(question: Question, form: Form) -> Turn:
    """Word a question for a conversation or as plain text; the answer is the text of the right choice."""
    prompt = question.text if form is Form.CHAT else f"Question: {question.text}\nAnswer:"
    return Turn(prompt, question.choices[question.answer])
