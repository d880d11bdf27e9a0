"""Mathematical equivalence, by math-verify."""

import logging
import re
from itertools import product
from typing import Final, Protocol

from pydantic import Field

from services.runtime.errors import FieldViolation
from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.errors import InvalidScoreRequestError
from services.scoring.own_memory import has_used_up_memory
from services.scoring.processor_time import processor_time
from services.scoring.requirements import require_targets, require_text
from services.scoring.text_limits import require_lengths

LIMIT_SECONDS: Final = 10.0
"""Processor time over one output, of all its targets."""
MAX_TARGET_CHARACTERS: Final = 10_000
_LATEX = re.compile(r"\$|\\\(|\\\[|\\boxed")


class MathEquivalenceParameters(ScorerParameters):
    """Where the answer is looked for, and how numbers and expressions are compared."""

    window_characters: int = Field(
        10_000, ge=1, le=50_000, description="How many characters from the end of the text are read."
    )
    float_rounding: int = Field(6, ge=0, le=50, description="Decimal places to which numbers are rounded.")
    numeric_precision: int = Field(15, ge=1, le=100, description="Digits to which expressions are evaluated.")
    strict: bool = Field(True, description="Variables must have the same names, and sets are not compared with tuples.")
    allow_set_relation_comp: bool = Field(
        False, description="A relation may equal a set also where the target is the set: 1 < x < 2 and (1, 2)."
    )


class _Engine(Protocol):
    """The part of the package math_verify that is used; it has no annotations that a checker could read."""

    def parse(self, pred: str, *, parsing_timeout: int | None, raise_on_error: bool) -> list[object]:
        """Return the expressions of sympy that were found, and behind them the text of the first; may be empty."""
        ...

    def verify(
        self,
        gold: list[object],
        target: list[object],
        *,
        float_rounding: int,
        numeric_precision: int,
        strict: bool,
        allow_set_relation_comp: bool,
        timeout_seconds: int | None,
        raise_on_error: bool,
    ) -> bool:
        """Return whether any of the one equals any of the other."""
        ...


class MathEquivalence:
    """1 if the last mathematical expression of the text equals an accepted one."""

    about = ScorerDescription(
        name="math_equivalence",
        version="1",
        description="Finds the final expression in the text (LaTeX, preferably boxed or after «final answer is», or a "
        "plain number or formula) and compares it with the targets symbolically and numerically, as math-verify 0.9 "
        "does: 1/2, 0.5 and \\frac{1}{2} are equal. A target without LaTeX's delimiters is read as LaTeX. Texts are "
        f"read from their end; an output may take {LIMIT_SECONDS:g} s of processor time.",
        metrics=(MetricDescription("math_match", "1 if the expression equals one of the targets, else 0."),),
        is_heavy=True,
        preloads=("math_verify",),
        libraries=("antlr4-python3-runtime", "latex2sympy2-extended", "math-verify", "sympy"),
    )
    parameters_type = MathEquivalenceParameters

    def score(self, parameters: MathEquivalenceParameters, item: ScoringItem, output: Output) -> Score:
        """Compare one text; the answer is the text of the expression. Raises what ``Scorer.score`` says."""
        text, targets = require_text(self.about.name, output), require_targets(self.about.name, item)
        require_lengths(self.about.name, "", targets, limit=MAX_TARGET_CHARACTERS)
        # Imported before the clock runs: it takes seconds once, and a service that is never asked for it none.
        engine = _engine()
        with processor_time(self.about.name, LIMIT_SECONDS):
            accepted = [self._target(engine, index, target) for index, target in enumerate(targets)]
            found = _parse(engine, text[-parameters.window_characters :])
            is_match = any(_are_equal(engine, parameters, target, found) for target in accepted)
        if not is_match and has_used_up_memory():
            # The engine takes every error for a mismatch, deep inside too.
            raise MemoryError
        return Score({"math_match": float(is_match)}, str(found[-1]) if found else None)

    def _target(self, engine: _Engine, index: int, target: str) -> list[object]:
        parsed = _parse(engine, target if _LATEX.search(target) else f"${target}$")
        if not parsed:
            if has_used_up_memory():
                raise MemoryError
            raise InvalidScoreRequestError(
                self.about.name, FieldViolation(f"targets[{index}]", f"{target[:60]!r} is no mathematical expression")
            )
        return parsed


def _engine() -> _Engine:
    import math_verify

    # It warns that it was told not to bound its own time, which it can only do by signals of its own.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    engine: _Engine = math_verify
    return engine


def _parse(engine: _Engine, text: str) -> list[object]:
    try:
        return engine.parse(text, parsing_timeout=None, raise_on_error=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - what the engine cannot read is no expression, as it says itself
        return []


def _are_equal(
    engine: _Engine, parameters: MathEquivalenceParameters, target: list[object], found: list[object]
) -> bool:
    # Pair by pair: an error makes one pair unequal, not all.
    return any(_is_pair_equal(engine, parameters, *pair) for pair in product(target, found))


def _is_pair_equal(engine: _Engine, parameters: MathEquivalenceParameters, target: object, found: object) -> bool:
    try:
        return engine.verify(
            [target],
            [found],
            float_rounding=parameters.float_rounding,
            numeric_precision=parameters.numeric_precision,
            strict=parameters.strict,
            allow_set_relation_comp=parameters.allow_set_relation_comp,
            timeout_seconds=None,
            raise_on_error=True,
        )
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - what the engine cannot compare is not equal, as it says itself
        return False
