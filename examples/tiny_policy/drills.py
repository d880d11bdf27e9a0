"""Drills: pages dense with answers that build up the two habits the skills stand on, sums and looking up a label.

A question costs forty tokens of reading for one letter of answer, far too little to learn from in minutes. A drill asks
several times about one page. Labels are any letters of the alphabet: a model that may guess among A, B, C and D gains
little from looking, one that has to guess among 26 learns to look, and keeps the habit.
"""

import string
from random import Random

from examples.tiny_policy import arithmetic, facts
from examples.tiny_policy.documents import Document, Form, Turn

_EQUATIONS = 6
_LOOK_UPS = 4
_ALPHABETICAL_SHARE = 0.4
_WORDS = tuple(member for members in facts.CATEGORIES.values() for member in members)


def draw_equations(rng: Random) -> Document:
    """A page of bare problems from the training part."""
    problems = (arithmetic.draw_problem(rng, held_out=False) for _ in range(_EQUATIONS))
    return Document(Form.PLAIN, tuple(Turn(f"{p.expression} =", str(p.answer)) for p in problems))


def draw_label_page(rng: Random) -> Document:
    """A labelled list, asked from word to label several times, or copied out in another order."""
    labels, words = _draw_list(rng)
    listing = "\n".join(f"{label}. {word}" for label, word in zip(labels, words, strict=True))
    if rng.random() < 1 / 3:
        order = rng.sample(range(len(words)), len(words))
        copy = "\n".join(f"{labels[place]}. {words[place]}" for place in order)
        return Document(Form.PLAIN, (Turn(f"{listing}\nAnswer:", copy),))
    places = [rng.randrange(len(words)) for _ in range(_LOOK_UPS)]
    turns = [Turn(f"Find {words[place]}:", labels[place]) for place in places]
    return Document(Form.PLAIN, (Turn(f"{listing}\n{turns[0].prompt}", turns[0].answer), *turns[1:]))


def draw_label_question(rng: Random) -> Document:
    """The same look-up in the layout of a multiple-choice question, with labels from the whole alphabet."""
    labels, words = _draw_list(rng)
    place = rng.randrange(len(words))
    listing = "\n".join(f"{label}. {word}" for label, word in zip(labels, words, strict=True))
    turn = Turn(f"Question: Find the word {words[place]}.\n{listing}\nAnswer:", labels[place])
    return Document(Form.PLAIN if rng.random() < 0.5 else Form.CHAT, (turn,))


def _draw_list(rng: Random) -> tuple[list[str], list[str]]:
    words = rng.sample(_WORDS, rng.randint(4, 6))
    if rng.random() < _ALPHABETICAL_SHARE:
        return list(string.ascii_uppercase[: len(words)]), words
    return rng.sample(string.ascii_uppercase, len(words)), words
