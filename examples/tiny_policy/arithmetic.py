"""Sums, differences and small products, bare and as one-step stories; a tenth of the problems is never trained on."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from examples.tiny_policy.documents import Form, Turn, is_held_out

HELD_OUT_ONE_IN = 10
_WORKED_SHARE = 0.5

_NAMES = (
    *("Mia", "Tom", "Ana", "Ben", "Lea", "Sam", "Eva", "Max", "Zoe"),
    *("Leo", "Ida", "Jon", "Amy", "Raj", "Lin", "Omar", "Nina", "Paul"),
)
_ITEMS = (
    *("apples", "books", "coins", "stickers", "marbles", "eggs"),
    *("cards", "shells", "stamps", "pencils", "cookies", "flowers"),
)
_BOXES = ("boxes", "bags", "rows", "baskets")


class Operation(StrEnum):
    """The three operations; the value is the sign that stands between the operands."""

    ADD = "+"
    SUBTRACT = "-"
    MULTIPLY = "*"


@dataclass(frozen=True, slots=True)
class Problem:
    """Two operands and what to do with them."""

    operation: Operation
    left: int
    right: int

    @property
    def answer(self) -> int:
        """The result, from 0 to 99."""
        if self.operation is Operation.ADD:
            return self.left + self.right
        if self.operation is Operation.SUBTRACT:
            return self.left - self.right
        return self.left * self.right

    @property
    def expression(self) -> str:
        """The problem in signs, for example ``12 + 7``."""
        return f"{self.left} {self.operation.value} {self.right}"

    @property
    def is_held_out(self) -> bool:
        """Whether training never shows this problem in any wording.

        Of a product only the order with the larger factor first can be held out: a table entry cannot be guessed,
        so its mirror image stays in training.
        """
        if self.operation is Operation.MULTIPLY and self.left <= self.right:
            return False
        return is_held_out(self.expression, HELD_OUT_ONE_IN)


_BARE = {
    Operation.ADD: ("What is {e}?", "How much is {a} plus {b}?", "Add {a} and {b}.", "What is the sum of {a} and {b}?"),
    Operation.SUBTRACT: ("What is {e}?", "How much is {a} minus {b}?", "Take {b} away from {a}."),
    Operation.MULTIPLY: ("What is {e}?", "How much is {a} times {b}?", "Multiply {a} by {b}."),
}
_STORIES = {
    Operation.ADD: (
        "{n} has {a} {i}. {m} gives {n} {b} more. How many {i} does {n} have now?",
        "{n} has {a} {i} and {m} has {b} {i}. How many {i} do they have together?",
        "There are {a} {i} on the table. {n} puts {b} more {i} on it. How many {i} are on the table?",
        "{n} finds {a} {i} in the morning and {b} in the evening. How many {i} does {n} find in total?",
    ),
    Operation.SUBTRACT: (
        "{n} has {a} {i}. {n} gives {b} of them to {m}. How many {i} are left?",
        "There are {a} {i} in a shop. {n} buys {b} of them. How many {i} remain?",
        "{n} had {a} {i} and lost {b}. How many {i} does {n} still have?",
        "{n} has {a} {i}. {m} has {b} fewer. How many {i} does {m} have?",
    ),
    Operation.MULTIPLY: (
        "{n} has {a} {x} with {b} {i} in each. How many {i} does {n} have?",
        "There are {a} {x}. Each holds {b} {i}. How many {i} are there?",
        "{n} fills {a} {x} and puts {b} {i} into each. How many {i} is that?",
    ),
}


def draw_problem(rng: Random, *, held_out: bool) -> Problem:
    """Draw a problem from the training part or from the held-out part."""
    while True:
        problem = _draw(rng)
        if problem.is_held_out == held_out:
            return problem


def _draw(rng: Random) -> Problem:
    operation = rng.choices((Operation.ADD, Operation.SUBTRACT, Operation.MULTIPLY), (5, 4, 2))[0]
    if operation is Operation.ADD:
        return Problem(operation, rng.randint(1, 50), rng.randint(1, 49))
    if operation is Operation.SUBTRACT:
        left = rng.randint(1, 60)
        return Problem(operation, left, rng.randint(1, left))
    return Problem(operation, rng.randint(2, 9), rng.randint(2, 9))


def phrase(problem: Problem, rng: Random) -> Turn:
    """Word a problem: a bare question answered by the number, or a story answered with its working.

    The working ends in ``#### N``, the mark by which grade-school word problems are graded.
    """
    if rng.random() < _WORKED_SHARE:
        story = rng.choice(_STORIES[problem.operation])
        name, other = rng.sample(_NAMES, 2)
        prompt = story.format(
            a=problem.left, b=problem.right, n=name, m=other, i=rng.choice(_ITEMS), x=rng.choice(_BOXES)
        )
        return Turn(prompt, f"{problem.expression} = {problem.answer}\n#### {problem.answer}")
    question = rng.choice(_BARE[problem.operation])
    prompt = question.format(e=problem.expression, a=problem.left, b=problem.right)
    return Turn(prompt, str(problem.answer))


def lay_out(problem: Problem, form: Form, rng: Random) -> Turn:
    """Word a problem for a conversation, or as plain text to be continued."""
    if form is Form.CHAT:
        return phrase(problem, rng)
    if rng.random() < 1 / 3:
        return Turn(f"{problem.expression} =", str(problem.answer))
    turn = phrase(problem, rng)
    return Turn(f"Question: {turn.prompt}\nAnswer:", turn.answer)
