"""What scorers demand of item and output before they judge."""

from services.runtime.errors import FieldViolation
from services.scoring.contract import ChoicesOutput, Output, ScoringItem, TextOutput, TokensOutput, VerdictOutput
from services.scoring.errors import InvalidScoreRequestError, VerdictError


def require_text(scorer: str, output: Output) -> str:
    """Return the generated text.

    Raises:
        InvalidScoreRequestError: the output is not one text.
    """
    if isinstance(output, TextOutput):
        return output.text
    raise InvalidScoreRequestError(scorer, FieldViolation("text", "this scorer judges generated text: set text"))


def require_tokens(scorer: str, output: Output) -> TokensOutput:
    """Return the likelihoods of a text's tokens.

    Raises:
        InvalidScoreRequestError: the output is something else, or there are no tokens or no text.
    """
    if not isinstance(output, TokensOutput) or not output.log_likelihoods or not output.text:
        wanted = "this scorer judges a text by its tokens: set log_likelihoods and text"
        raise InvalidScoreRequestError(scorer, FieldViolation("token_scores", wanted))
    if output.token_count is not None and output.token_count < len(output.log_likelihoods):
        problem = f"is {output.token_count}, but there are {len(output.log_likelihoods)} log_likelihoods"
        raise InvalidScoreRequestError(scorer, FieldViolation("token_scores.token_count", problem))
    return output


def require_verdict(scorer: str, output: Output) -> VerdictOutput:
    """Return a verdict that says something.

    Raises:
        InvalidScoreRequestError: the output is something else.
        VerdictError: the safety service could not judge, or found safe what it read and did not read the rest.
    """
    if not isinstance(output, VerdictOutput):
        raise InvalidScoreRequestError(
            scorer, FieldViolation("verdict", "this scorer judges by the safety service's verdict: set verdict")
        )
    if output.decision not in ("safe", "unsafe", "controversial"):
        raise VerdictError(f"the safety service could not judge the output: {output.error_reason or 'no decision'}")
    if output.decision == "safe" and output.is_truncated:
        raise VerdictError(
            "the output is too long: the guard found a part of it safe and did not read the rest",
            reason="SAFETY_TEXT_TRUNCATED",
        )
    return output


def require_targets(scorer: str, item: ScoringItem) -> tuple[str, ...]:
    """Return the accepted answers.

    Raises:
        InvalidScoreRequestError: there are none.
    """
    if item.targets:
        return item.targets
    raise InvalidScoreRequestError(
        scorer, FieldViolation("targets", "this scorer compares with accepted answers: give at least one")
    )


def require_prompt(scorer: str, item: ScoringItem) -> str:
    """Return what the model was asked.

    Raises:
        InvalidScoreRequestError: nobody told.
    """
    if item.prompt:
        return item.prompt
    raise InvalidScoreRequestError(
        scorer, FieldViolation("prompt", "this scorer judges with the prompt in view: set prompt")
    )


def require_choices(scorer: str, item: ScoringItem, output: Output) -> ChoicesOutput:
    """Return the choices' log-likelihoods once they fit each other and the right choices' indices.

    Raises:
        InvalidScoreRequestError: something else than choices, lengths that differ, or indices that name no choice.
    """
    if not isinstance(output, ChoicesOutput):
        raise InvalidScoreRequestError(
            scorer, FieldViolation("choices", "this scorer judges log-likelihoods of choices: set choices")
        )
    violations = []
    count = len(output.choices)
    if len(output.log_likelihoods) != count:
        violations.append(
            FieldViolation("choices", f"has {len(output.log_likelihoods)} log_likelihoods for {count} choices")
        )
    elif count < 2:
        violations.append(FieldViolation("choices.choices", f"has {count}; a choice needs at least 2"))
    if output.unconditional and len(output.unconditional) != count:
        violations.append(
            FieldViolation(
                "choices.unconditional_log_likelihoods", f"has {len(output.unconditional)} for {count} choices"
            )
        )
    if not item.gold_indices:
        violations.append(FieldViolation("gold_indices", "give the index of at least one right choice"))
    violations.extend(
        FieldViolation(f"gold_indices[{position}]", f"is {index}; the choices have indices 0 to {count - 1}")
        for position, index in enumerate(item.gold_indices)
        if not 0 <= index < count
    )
    if violations:
        raise InvalidScoreRequestError(scorer, *violations)
    return output
