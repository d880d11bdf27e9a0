"""Items to read: what was asked, what came, what would have been right, and what scorers and guards said."""

from collections.abc import Iterator, Sequence

from evalfleet.item_results import ItemResult
from evalfleet.item_texts import conversation_of
from evalfleet.names import short_name
from evalfleet.pages.markup import Child, Markup, joined, shown_text, tag, text_block
from evalfleet.pages.numbers import count, money, seconds
from evalfleet.pages.page import Section
from evalfleet.pages.tables import badge
from evalfleet.reports.facts import ItemOutcome, ReportFacts, ShownItem

_KINDS = {
    ItemOutcome.FAILED: ("open", "failed"),
    ItemOutcome.WRONG: ("bad", "wrong"),
    ItemOutcome.BETWEEN: ("quiet", "between"),
    ItemOutcome.SCORED: ("quiet", "scored"),
    ItemOutcome.RIGHT: ("good", "right"),
}
_VERDICTS = {"unsafe": {1.0: ("bad", "UNSAFE"), 0.0: ("good", "SAFE")}}
_SUMMARY_CHARACTERS = 90


def items_section(facts: ReportFacts) -> Section:
    """Lay out the embedded items with what filters them; a page without scripts shows them all."""
    if not facts.items:
        words = "No items are embedded in this file." if facts.item_total else "There are no items yet."
        return Section("items", "Items", tag("p", words, id="item-count"))
    rows = "\n".join(_item(each, with_label=len(facts.runs) > 1) for each in facts.items)
    return Section("items", "Items", joined(_filters(facts), Markup(rows)), _note(facts))


def _note(facts: ReportFacts) -> Markup:
    chosen = (
        "They were chosen evenly over the tasks: those that failed first, then the wrong ones. "
        if len(facts.items) < facts.item_total
        else ""
    )
    keys = joined(
        "Keys: ", tag("kbd", "j"), " next, ", tag("kbd", "k"), " previous, ", tag("kbd", "/"), " search, Enter opens."
    )
    said = f"{count(len(facts.items))} of {count(facts.item_total)} outcomes are embedded. {chosen}"
    return tag("span", said, keys, data_embedded=len(facts.items), data_total=facts.item_total)


def _filters(facts: ReportFacts) -> Markup:
    outcomes = [each.value for each in ItemOutcome if any(item.outcome is each for item in facts.items)]
    tasks = list(dict.fromkeys(each.result.task for each in facts.items))
    labels = list(dict.fromkeys(each.label for each in facts.items))
    fields = [
        tag("label", "Search", tag("input", type="search", name="search", autocomplete="off"), class_="search"),
        _select("Run", "run", labels) if len(labels) > 1 else None,
        _select("Task", "task", tasks) if len(tasks) > 1 else None,
        _select("Outcome", "outcome", outcomes) if len(outcomes) > 1 else None,
    ]
    form = tag("form", *fields, id="item-filters", class_="filters", role="search", aria_label="Items", hidden=True)
    return joined(form, tag("p", id="item-count", role="status"))


def _select(label: str, name: str, values: Sequence[str]) -> Markup:
    options = [tag("option", "all", value=""), *(tag("option", each, value=each) for each in values)]
    return tag("label", label, tag("select", *options, name=name))


def _item(shown: ShownItem, *, with_label: bool) -> Markup:
    result = shown.result
    kind, word = _KINDS[shown.outcome]
    sample = f" sample {result.sample}" if result.sample else ""
    where = f"{result.task}{sample}" + (f" · {shown.label}" if with_label else "")
    summary = tag(
        "summary",
        badge(word, kind),
        tag("span", shown_text(_short(result.item)), class_="name", dir="auto"),
        tag("span", shown_text(where), class_="where"),
        tag("span", shown_text(_short(_question(result.prompt))), class_="excerpt", dir="auto"),
        tag("span", *_scores(result), class_="scores"),
    )
    return tag(
        "details",
        summary,
        tag("div", *_body(shown), class_="body"),
        class_="item",
        data_run=shown.label,
        data_task=result.task,
        data_item=result.item,
        data_outcome=shown.outcome.value,
    )


def _question(prompt: str) -> str:
    """The last turn of a conversation, or the end of a prompt: what stands before it are examples."""
    turns = conversation_of(prompt)
    if turns:
        return turns[-1][1]
    asked = prompt.strip()
    return asked if len(asked) <= _SUMMARY_CHARACTERS else "… " + asked[2 - _SUMMARY_CHARACTERS :]


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _SUMMARY_CHARACTERS else one_line[: _SUMMARY_CHARACTERS - 1] + "…"


def _scores(result: ItemResult) -> Iterator[Child]:
    for index, (name, value) in enumerate(sorted(result.metrics.items())):
        kind, word = _VERDICTS.get(name, {}).get(value, ("", ""))
        yield " · " if index else None
        yield badge(word, kind) if word else joined(tag("bdi", name), f" {value:.4g}")


def _body(shown: ShownItem) -> Iterator[Child]:
    result = shown.result
    for failure in result.failures:
        of = f" of {', '.join(failure.metrics)}" if failure.metrics else ""
        counted = "".join(f"; {name} counts as {value:g}" for name, value in failure.counted_as.items())
        yield tag(
            "p",
            badge("failed", "open"),
            " ",
            tag("code", failure.reason),
            shown_text(f"{of}: {failure.message}{counted}"),
        )
    yield tag("h4", "Prompt")
    yield from _turns(result, shown)
    yield tag("h4", "Output")
    yield from _text(shown, "output", result.output, "answer")
    if result.targets:
        yield tag("h4", "Target" if len(result.targets) == 1 else "Targets")
        yield from (text_block(each, label="Target") for each in result.targets)
    if result.extracted_answer is not None and result.extracted_answer != result.output:
        yield tag("h4", "Taken for the answer")
        yield from _text(shown, "extracted_answer", result.extracted_answer)
    if result.metrics:
        yield tag("h4", "Scores and verdicts")
        scores = [
            tag("li", tag("bdi", name), " ", tag("b", f"{value:.6g}")) for name, value in sorted(result.metrics.items())
        ]
        yield tag("ul", *scores, class_="facts")
    yield tag("ul", *_facts(result), class_="facts")


def _turns(result: ItemResult, shown: ShownItem) -> Iterator[Markup]:
    """Show a conversation turn by turn; what is none is shown as it is."""
    turns = [] if "prompt" in shown.cut_characters else conversation_of(result.prompt)
    if not turns:
        yield from _text(shown, "prompt", result.prompt)
    for role, content in turns:
        yield tag("p", role, class_="turn")
        yield text_block(content, label=f"Prompt, {role}")


def _text(shown: ShownItem, field: str, text: str, class_: str = "") -> Iterator[Markup]:
    if field in shown.result.pruned_texts:
        yield tag("p", "taken out of the ledger", class_="note")
        return
    yield text_block(text, label=field.replace("_", " ").capitalize(), class_=class_)
    if not text:
        yield tag("p", "empty", class_="note")
    if cut := shown.cut_characters.get(field):
        yield tag("p", f"… and {count(cut)} more characters, which this file leaves out", class_="note")


def _facts(result: ItemResult) -> Iterator[Markup]:
    usage = result.usage
    cost = f", {money(usage.cost_usd)}" if usage.cost_usd else ""
    tokens = f"{count(usage.prompt_tokens)} + {count(usage.completion_tokens)} tokens"
    yield tag("li", f"{tokens}, {count(usage.computed_tokens)} computed, {seconds(usage.engine_seconds)}{cost}")
    yield tag("li", f"draw {count(result.draw_index)}")
    if result.groups:
        yield tag("li", shown_text(", ".join(f"{column}={value}" for column, value in sorted(result.groups.items()))))
    if result.judges:
        judged = ", ".join(f"{short_name(each.name)} {each.version[:20]}".strip() for each in result.judges)
        yield tag("li", "judged by ", shown_text(judged))
    if result.truncated:
        yield tag("li", "the prompt was shortened to fit the model's context")
