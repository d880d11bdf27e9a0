"""The table of figures that belong to whole sets of items."""

from collections.abc import Sequence

from rich.table import Table

from evalfleet.cli.tables import number, plain_table
from evalfleet.results import SetMeasure


def set_measures_table(measures: Sequence[SetMeasure], *, groups: bool = False) -> Table:
    """Lay out bias scores, calibration errors and figures of corpora, one row each.

    Args:
        measures: in order.
        groups: also those of groups of items.
    """
    table = plain_table("task", "of the set", ">value", ">interval", ">items")
    shown = ""
    for each in measures:
        if each.group and not groups:
            continue
        limits = each.interval
        table.add_row(
            "" if each.task == shown else each.task,
            f"  {each.name} · {each.group}" if each.group else each.name,
            number(each.value),
            "" if limits is None else f"{number(limits.lower)} … {number(limits.upper)}",
            _items(each),
        )
        shown = each.task
    return table


def _items(measure: SetMeasure) -> str:
    if not measure.excluded_count:
        return f"{measure.item_count:,}"
    return f"{measure.item_count:,} of {measure.item_count + measure.excluded_count:,}"
