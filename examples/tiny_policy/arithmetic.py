"""Small sums and differences, bare and as one-step stories; a tenth of the wordings is never trained on."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from examples.tiny_policy.documents import Form, Turn, is_held_out

HELD_OUT_ONE_IN = 10
_WORKED_SHARE = 0.35

_NAMES = ["Mia", "Tom", "Ana", "Ben", "Lea", "Sam"]
_ITEMS = ["apples", "books", "coins", "eggs"]


class Operation(StrEnum):
    """The two operations; the value is the sign that stands between the operands."""

    ADD = "+"
    SUBTRACT = "-"


@dataclass(frozen=True, slots=True)
class Problem:
    """Two operands and what to do with them."""

    operation: Operation
    left: int
    right: int

    @property
    def answer(self) -> int:
        """The result, from 0 to 40."""
        return self.left + self.right if self.operation is Operation.ADD else self.left - self.right

    @property
    def expression(self) -> str:
        """The problem in signs, for example ``12 + 7``."""
        return f"{self.left} {self.operation.value} {self.right}"


_BARE = {
    Operation.ADD: ("What is {e}?", "How much is {a} plus {b}?"),
    Operation.SUBTRACT: ("What is {e}?", "How much is {a} minus {b}?"),
}
_STORIES = {
    Operation.ADD: (
        "{n} has {a} {i}. {m} gives {n} {b} more. How many {i} does {n} have now?",
        "{n} has {a} {i} and {m} has {b} {i}. How many {i} do they have together?",
    ),
    Operation.SUBTRACT: (
        "{n} has {a} {i}. {n} gives {b} of them to {m}. How many {i} are left?",
        "{n} had {a} {i} and lost {b}. How many {i} does {n} still have?",
    ),
}


def draw_problem(rng: Random) -> Problem:
    """Draw two small operands."""
    if rng.random() < 0.5:
        return Problem(Operation.ADD, rng.randint(1, 9), rng.randint(1, 9))
    left = rng.randint(2, 10)
    return Problem(Operation.SUBTRACT, left, rng.randint(1, left))


def draw_turn(rng: Random, form: Form, *, held_out: bool) -> tuple[Problem, Turn]:
    """Draw a problem in a wording of the training part or of the held-out part, which both forms share."""
    while True:
        problem = draw_problem(rng)
        turn = phrase(problem, rng)
        if form is Form.PLAIN and rng.random() < 1 / 3:
            turn = Turn(f"{problem.expression} =", str(problem.answer))
        if is_held_out(turn.prompt, HELD_OUT_ONE_IN) == held_out:
            if form is Form.PLAIN and not turn.prompt.endswith("="):
                turn = Turn(f"Question: {turn.prompt}\nAnswer:", turn.answer)
            return problem, turn


def phrase(problem: Problem, rng: Random) -> Turn:
    """Word a problem: a bare question answered by the number, or a story answered with its working.

    The working ends in ``#### N``, the mark by which grade-school word problems are graded.
    """
    if rng.random() < _WORKED_SHARE:
        story = rng.choice(_STORIES[problem.operation])
        name, other = rng.sample(_NAMES, 2)
        prompt = story.format(a=problem.left, b=problem.right, n=name, m=other, i=rng.choice(_ITEMS))
        return Turn(prompt, f"{problem.expression} = {problem.answer}\n#### {problem.answer}")
    question = rng.choice(_BARE[problem.operation])
    prompt = question.format(e=problem.expression, a=problem.left, b=problem.right)
    return Turn(prompt, str(problem.answer))
