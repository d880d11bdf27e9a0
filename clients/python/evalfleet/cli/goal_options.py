"""Options that say what a run is to find out and what it may spend."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from evalfleet.cli.completion import completes
from evalfleet.goals import Budget, Gate

TIERS = ("smoke", "standard", "deep", "auto")

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class GateType(click.ParamType[Gate]):
    """``gsm8k>=0.55``."""

    name = "gate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Gate:
        """Read a gate."""
        try:
            return value if isinstance(value, Gate) else Gate.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class BudgetType(click.ParamType[Budget]):
    """``2usd,10min``."""

    name = "budget"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Budget:
        """Read a budget."""
        try:
            return value if isinstance(value, Budget) else Budget.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class HalfWidthType(click.ParamType[float]):
    """``0.02`` or ``2%``."""

    name = "half-width"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a half-width, from 0.001 to 0.5."""
        try:
            text = str(value).strip().removeprefix("±")
            width = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            self.fail(f"{value!r} is no number", param, ctx)
        if not 0.001 <= width <= 0.5:
            self.fail(f"{value!r} is not from 0.001 to 0.5", param, ctx)
        return width


gate_option = click.option(
    "--gate",
    "gates",
    type=GateType(),
    multiple=True,
    metavar="TASK>=NUMBER",
    help="Stop a task once it is decided whether this holds: 'gsm8k>=0.55', 'harmbench:unsafe<=0.02'. Repeatable.",
)
precision_option = click.option(
    "--precision",
    type=HalfWidthType(),
    metavar="NUMBER",
    help="Stop a task without a gate when its interval is at most this to either side: 0.02.",
)


previous_option = click.option(
    "--previous",
    metavar="RUN",
    default="",
    shell_complete=completes("runs"),
    help="The run of the checkpoint before this one, whose results say best where to look. Saves items.",
)


def cost_options(command: CommandT) -> CommandT:
    """Add ``--budget``, ``--tier``, ``--confidence`` and ``--no-history``."""
    for option in (
        click.option(
            "--no-history",
            is_flag=True,
            help="Draw items evenly, whatever earlier runs on them found. Costs items, changes no promise.",
        ),
        click.option(
            "--confidence",
            type=click.FloatRange(0.5, 0.9999),
            metavar="NUMBER",
            help="1 minus the probability that any decision of the run is wrong.  [default: 0.95]",
        ),
        click.option(
            "--tier",
            type=click.Choice(TIERS),
            help="smoke: stop at the first gate that fails; standard: gates, or ±2 points; deep: all items; auto: one "
            "of them by what is new in the model. A suite may define gates, precision and budget of each.",
        ),
        click.option(
            "--budget",
            type=BudgetType(),
            metavar="LIMIT,...",
            help="What the run may spend: 2usd, 5000items, 3Mtokens, 60engine-seconds, 10min; several with commas. "
            "Used up, it ends with what it has found.",
        ),
    ):
        command = option(command)
    return command
