"""Choices, right choices and accepted answers: what the harness makes of `doc_to_choice` and `doc_to_target`.

The harness renders a template to text and reads numbers and lists back out of that; here they are never made text. A
value that is text is looked up among the choices, and one of digits is an index, as there.
"""

import ast
from typing import Any

from evalfleet.plugins.lm_eval_tasks.jinja_texts import JinjaText, UntranslatableError, is_column
from evalfleet.plugins.lm_eval_tasks.task_files import FunctionReference

CHOICES = "imported_choices"
TARGET = "imported_target"


def choices_expression(value: Any) -> tuple[str, frozenset[str]]:
    """Return `doc_to_choice` as an expression, and the columns that it reads.

    Raises:
        UntranslatableError: it is a function, or no list.
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return repr([str(each) for each in value]), frozenset()
    text = _text(value)
    if is_column(text):
        return text, frozenset({text})
    if "{{" not in text and "{%" not in text:
        return _literal_list(text), frozenset()
    template = JinjaText.parse(text)
    if not text.strip().startswith("{{"):
        raise UntranslatableError("it is no single list")
    return JinjaText(text.strip(), template.columns).as_expression(), template.columns


def target_expression(value: Any) -> tuple[str, frozenset[str]]:
    """Return `doc_to_target` as an expression, and the columns that it reads.

    Raises:
        UntranslatableError: it is a function, or has statements.
    """
    if isinstance(value, (int, list)):
        return repr(value), frozenset()
    text = _text(value)
    if is_column(text):
        return text, frozenset({text})
    template = JinjaText.parse(text)
    return template.as_expression(), template.columns


def gold_expression(value: Any) -> str:
    """Return the expression of the right choice's index, or of the list of them, over the two computed columns."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    position = f"{CHOICES}.index({TARGET} | string)"
    several = f"{TARGET} is sequence and {TARGET} is not string"
    if isinstance(value, str) and is_column(value):
        # A column keeps its type: text is looked up even if it is digits.
        return f"({TARGET} | int) if {TARGET} is number else ({TARGET} if {several} else {position})"
    return f"({TARGET} | int) if ({TARGET} | string).isdigit() else ({TARGET} if {several} else {position})"


def _text(value: Any) -> str:
    if isinstance(value, FunctionReference):
        raise UntranslatableError(f"it is the Python function {value.name}; write a template in its place")
    if not isinstance(value, str):
        raise UntranslatableError(f"it is {value!r:.60}, where a template is needed")
    return value


def _literal_list(text: str) -> str:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise UntranslatableError("it is no list") from error
    if not isinstance(found, list):
        raise UntranslatableError("it is no list")
    return repr([str(each) for each in found])
