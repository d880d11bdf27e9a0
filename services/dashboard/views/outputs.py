"""Two runs' outputs beside each other, those first that differ in what became of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from evalfleet.item_results import ItemResult
from evalfleet.names import short_name
from evalfleet.pages.markup import Child, Markup, joined, shown_text, tag, text_block
from evalfleet.pages.numbers import count
from evalfleet.pages.page import Section
from evalfleet.pages.tables import badge, folded
from evalfleet.reports.facts import ItemOutcome, RunFacts
from evalfleet.reports.item_choice import MOST_CHARACTERS, outcome_of
from evalfleet.results import Run

from services.dashboard.views.forms import choice_form, select

MOST_READ = 5_000
MOST_SHOWN = 100
_BADGES = {
    ItemOutcome.FAILED: "open",
    ItemOutcome.WRONG: "bad",
    ItemOutcome.BETWEEN: "quiet",
    ItemOutcome.SCORED: "quiet",
    ItemOutcome.RIGHT: "good",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """What two runs made of the same sample of the same item."""

    base: ItemResult
    variant: ItemResult
    base_outcome: ItemOutcome
    variant_outcome: ItemOutcome

    @property
    def differs(self) -> bool:
        """Whether the runs differ in what became of it, or in any metric."""
        return self.base_outcome is not self.variant_outcome or self.base.metrics != self.variant.metrics


def paired(
    base: Iterable[ItemResult], variant: Iterable[ItemResult], facts: tuple[RunFacts, RunFacts]
) -> Iterator[Pair]:
    """Pair two runs' results, at most ``MOST_READ`` of each; what only one of them has is left out."""
    # Of what is held, only what is shown.
    theirs = {_key(each): replace(each, prompt="", output=_cut(each.output)) for each in islice(variant, MOST_READ)}
    for one in islice(base, MOST_READ):
        if (other := theirs.get(_key(one))) is not None:
            yield Pair(one, other, outcome_of(one, facts[0]), outcome_of(other, facts[1]))


def _key(result: ItemResult) -> tuple[str, str, int]:
    return result.task, result.item, result.sample


def chosen_pairs(pairs: Iterable[Pair]) -> tuple[list[Pair], int, int]:
    """Return those to show, how many differ, and how many were looked at."""
    differing: list[Pair] = []
    alike: list[Pair] = []
    total = 0
    different = 0
    for pair in pairs:
        total += 1
        different += pair.differs
        kept = differing if pair.differs else alike
        if len(kept) < MOST_SHOWN:
            kept.append(pair)
    return [*differing, *alike][:MOST_SHOWN], different, total


def choice_section(runs: Sequence[Run], base: str, variant: str, tasks: Sequence[str], task: str) -> Section:
    """Make the form that chooses two runs and a task."""
    # A run that was named may be older than those that are listed.
    names = list(
        dict.fromkeys([*(short_name(each.name) for each in runs), *map(short_name, filter(None, (base, variant)))])
    )
    form = choice_form(
        "/outputs",
        select("Base", "base", names, short_name(base), none="choose a run"),
        select("Variant", "variant", names, short_name(variant), none="choose a run"),
        select("Task", "task", tasks, task) if tasks else Markup(),
    )
    return Section("choice", "Which runs", form)


def outputs_section(
    pairs: Sequence[Pair], different: int, total: int, labels: tuple[str, str], *, is_cut: bool
) -> Section:
    """Lay out pairs; ``is_cut`` says that a run has more outcomes than were looked at."""
    if not total:
        among = f" among the first {count(MOST_READ)} of each" if is_cut else ""
        return Section(
            "pairs", "Outputs", tag("p", f"The runs have no item of this task in common{among}.", class_="note")
        )
    cut = f" Only the first {count(MOST_READ)} outcomes of each run were looked at." if is_cut else ""
    note = f"{count(different)} of {count(total)} differ; {count(len(pairs))} are shown, those that differ first.{cut}"
    shown = [_pair(each, labels) for each in pairs]
    return Section("pairs", "Outputs", joined(*shown), tag("span", note, data_different=different, data_total=total))


def _pair(pair: Pair, labels: tuple[str, str]) -> Markup:
    sample = f" sample {pair.base.sample}" if pair.base.sample else ""
    targets = joined(*(text_block(_cut(each), label="Target") for each in pair.base.targets))
    return tag(
        "article",
        tag("h3", shown_text(pair.base.item[:90] + sample)),
        folded("Prompt", text_block(_cut(pair.base.prompt), label="Prompt")),
        folded("Target", targets) if pair.base.targets else None,
        tag(
            "div",
            _side(labels[0], pair.base, pair.base_outcome),
            _side(labels[1], pair.variant, pair.variant_outcome),
            class_="sides",
        ),
        class_="pair",
        data_item=pair.base.item,
        data_differs=str(pair.differs).lower(),
    )


def _side(label: str, result: ItemResult, outcome: ItemOutcome) -> Markup:
    scores: list[Child] = [f" {name} {value:.4g}" for name, value in sorted(result.metrics.items())]
    failures = [tag("p", tag("code", each.reason), shown_text(f" {each.message}")) for each in result.failures]
    return tag(
        "div",
        tag("p", tag("b", tag("bdi", label)), " ", badge(outcome.value, _BADGES[outcome]), *scores, class_="small"),
        text_block(_cut(result.output), label=f"Output of {label}", class_="answer"),
        *failures,
    )


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " …"
