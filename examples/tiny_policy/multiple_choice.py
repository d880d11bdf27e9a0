"""Multiple-choice questions over the closed world, a tenth of which training never shows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random

from examples.tiny_policy import facts
from examples.tiny_policy.documents import Form, Turn, is_held_out

HELD_OUT_ONE_IN = 10
LETTERS = "ABCD"
_DIRECT_SHARE = 0.3  # without options: the answer in words, so that option texts can be ranked too


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its choices in the order shown.

    Attributes:
        text: The question alone.
        choices: Four different option texts.
        answer: Index of the right choice.
        is_closed: Whether the question can only be answered by choosing (it points at "these").
    """

    text: str
    choices: tuple[str, ...]
    answer: int
    is_closed: bool = False

    @property
    def is_held_out(self) -> bool:
        """Whether training never asks this wording about this answer, whatever the other choices."""
        return is_held_out(f"{self.text}\n{self.choices[self.answer]}", HELD_OUT_ONE_IN)

    @property
    def letter(self) -> str:
        """The letter of the right choice."""
        return LETTERS[self.answer]

    def listing(self) -> str:
        """The question and its lettered choices, one line each."""
        options = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices, strict=True))
        return "\n".join((self.text, *options))


def _ask(rng: Random, text: str, answer: str, others: Iterable[str], *, is_closed: bool = False) -> Question:
    pool = [other for other in dict.fromkeys(others) if other != answer]
    choices = [answer, *rng.sample(pool, len(LETTERS) - 1)]
    rng.shuffle(choices)
    return Question(text, tuple(choices), choices.index(answer), is_closed)


def _an(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _ask_lookup(rng: Random, wordings: tuple[str, ...], table: Mapping[str, str]) -> Question:
    subject = rng.choice(sorted(table))
    return _ask(rng, rng.choice(wordings).format(s=subject, an=_an(subject)), table[subject], table.values())


def _colour(rng: Random) -> Question:
    wordings = (
        "What colour is {s}?",
        "Which colour does {s} have?",
        "What is the usual colour of {s}?",
        "Think of {s}. What colour is it?",
    )
    return _ask_lookup(rng, wordings, facts.COLOURS)


def _young(rng: Random) -> Question:
    wordings = ("What is a young {s} called?", "What do we call the young of a {s}?", "A baby {s} is called what?")
    return _ask_lookup(rng, wordings, facts.YOUNG)


def _home(rng: Random) -> Question:
    wordings = ("Where does a {s} live?", "What is the home of a {s}?", "Where would you look for a {s}?")
    return _ask_lookup(rng, wordings, facts.HOMES)


def _legs(rng: Random) -> Question:
    wordings = ("How many legs does {an} have?", "What number of legs has {an}?", "Count the legs of {an}.")
    return _ask_lookup(rng, wordings, facts.LEGS)


def _kind_of(rng: Random) -> Question:
    wordings = (
        "What is {s}?",
        "What kind of thing is {s}?",
        "Which group does {s} belong to?",
        "{s} is a kind of what?",
    )
    return _ask_lookup(rng, wordings, _kinds())


@cache
def _kinds() -> Mapping[str, str]:
    return {member: kind for kind, members in facts.CATEGORIES.items() for member in members}


def _member_of(rng: Random) -> Question:
    wordings = ("Which of these is {k}?", "Find {k}.", "Which word names {k}?")
    kind = rng.choice(sorted(facts.CATEGORIES))
    others = (member for member, other in _kinds().items() if other != kind)
    text = rng.choice(wordings).format(k=kind)
    return _ask(rng, text, rng.choice(facts.CATEGORIES[kind]), others, is_closed=True)


def _opposite(rng: Random) -> Question:
    wordings = (
        "What is the opposite of {s}?",
        "Which word means the opposite of {s}?",
        "If it is not {s}, it is what?",
    )
    subject, answer = rng.sample(rng.choice(facts.OPPOSITES), 2)
    others = (word for pair in facts.OPPOSITES for word in pair if word != subject)
    return _ask(rng, rng.choice(wordings).format(s=subject), answer, others)


def _size(rng: Random) -> Question:
    places = sorted(rng.sample(range(len(facts.BY_SIZE)), len(LETTERS)))
    wanted, place = rng.choice((("largest", places[-1]), ("smallest", places[0])))
    wording = rng.choice(("Which of these is the {w}?", "Which one is the {w}?", "Find the {w} thing."))
    others = (facts.BY_SIZE[other] for other in places)
    return _ask(rng, wording.format(w=wanted), facts.BY_SIZE[place], others, is_closed=True)


def _number_size(rng: Random) -> Question:
    numbers = sorted(rng.sample(range(10, 100, 1), len(LETTERS)))
    wanted, number = rng.choice((("largest", numbers[-1]), ("smallest", numbers[0])))
    wording = rng.choice(("Which number is the {w}?", "Find the {w} number.", "Which is the {w} of these numbers?"))
    return _ask(rng, wording.format(w=wanted), str(number), map(str, numbers), is_closed=True)


def _next_in_order(rng: Random) -> Question:
    wordings = ("Which {u} comes after {s}?", "What {u} follows {s}?", "It is {s}. Which {u} is next?")
    unit = rng.choice(sorted(facts.SEQUENCES))
    sequence = facts.SEQUENCES[unit]
    place = rng.randrange(len(sequence))
    answer = sequence[(place + 1) % len(sequence)]
    others = (word for word in sequence if word != sequence[place])
    return _ask(rng, rng.choice(wordings).format(u=unit, s=sequence[place]), answer, others)


def _reading(rng: Random) -> Question:
    """What a sentence has just said: two people, two things, two colours."""
    first, second = rng.sample(("Mia", "Tom", "Ana", "Ben", "Lea", "Sam", "Eva", "Max"), 2)
    colours = rng.sample(sorted(set(facts.COLOURS.values())), 2)
    thing = rng.choice(("ball", "hat", "car", "bag", "coat", "cup"))
    person, colour = rng.choice(((first, colours[0]), (second, colours[1])))
    story = f"{first} has a {colours[0]} {thing}. {second} has a {colours[1]} {thing}."
    if rng.random() < 0.5:
        return _ask(rng, f"{story} What colour is the {thing} of {person}?", colour, facts.COLOURS.values())
    others = (first, second, *rng.sample(("Zoe", "Leo", "Ida", "Jon"), 2))
    return _ask(rng, f"{story} Who has the {colour} {thing}?", person, others)


def _find_word(rng: Random) -> Question:
    """Point at a word that stands among the choices: the plainest use of letters, and the first to be learnt."""
    words = sorted(_kinds())
    answer = rng.choice(words)
    wording = rng.choice(("Which option says {w}?", "Find the word {w}.", "Where does it say {w}?"))
    return _ask(rng, wording.format(w=answer), answer, words, is_closed=True)


# How often each kind of question is asked.
_FAMILIES: Mapping[Callable[[Random], Question], float] = {
    _colour: 3,
    _kind_of: 3,
    _member_of: 3,
    _opposite: 3,
    _young: 1,
    _home: 1,
    _legs: 1,
    _size: 2,
    _number_size: 1,
    _next_in_order: 2,
    _reading: 2,
    _find_word: 2,
}


def draw_question(rng: Random, *, held_out: bool) -> Question:
    """Draw a question from the training part or from the held-out part."""
    while True:
        question = rng.choices(tuple(_FAMILIES), tuple(_FAMILIES.values()))[0](rng)
        if question.is_held_out == held_out:
            return question


def lay_out(question: Question, form: Form, rng: Random) -> Turn:
    """Word a question for a conversation or as plain text, with lettered choices or, now and then, without any."""
    if rng.random() < _DIRECT_SHARE and not question.is_closed:
        return lay_out_words(question, form)
    return lay_out_letters(question, form, rng)


def lay_out_words(question: Question, form: Form) -> Turn:
    """The question alone; the answer is the text of the right choice."""
    prompt = question.text if form is Form.CHAT else f"Question: {question.text}\nAnswer:"
    return Turn(prompt, question.choices[question.answer])


def lay_out_letters(question: Question, form: Form, rng: Random) -> Turn:
    """The question with its lettered choices; the answer is the letter."""
    if form is Form.CHAT and rng.random() < 0.5:
        return Turn(f"{question.listing()}\nAnswer with the letter.", question.letter)
    opening = "Question: " if rng.random() < 0.5 else ""
    return Turn(f"{opening}{question.listing()}\nAnswer:", question.letter)
