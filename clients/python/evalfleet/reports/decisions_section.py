"""What was decided, in words: gates, comparisons of checkpoints, regressions, and why each run ended."""

from collections.abc import Iterator, Mapping

from evalfleet.comparison_results import Comparison, RegressionAlarm, Regressions
from evalfleet.goals import Answer, Outcome, QuestionDecision, StopReason, TaskDecision, outcome_of
from evalfleet.pages.interval_plots import Mark, axis, description, interval_plot
from evalfleet.pages.markup import Child, Markup, joined, tag
from evalfleet.pages.numbers import count, number, share, signed, span
from evalfleet.pages.page import Section
from evalfleet.pages.scales import bounds_of
from evalfleet.pages.tables import badge, folded
from evalfleet.reports.facts import ComparedPair, ReportFacts, RunFacts
from evalfleet.results import RunState

_KINDS = {Answer.PASSED: "good", Answer.REACHED: "good", Answer.FAILED: "bad", Answer.UNDECIDED: "open"}
_OUTCOMES = {
    Outcome.PASSED: ("good", "every gate passed"),
    Outcome.FAILED: ("bad", "a gate failed"),
    Outcome.UNDECIDED: ("open", "not all gates are decided"),
}
_STOPS: Mapping[StopReason, str] = {
    StopReason.COMPLETE: "Every item has an outcome.",
    StopReason.DECIDED: "It stopped early, because every question was decided.",
    StopReason.GATE_FAILED: "It stopped at the first gate that failed.",
    StopReason.BUDGET_EXHAUSTED: "It stopped because its budget was used up.",
    StopReason.CALLER_BUDGET_EXHAUSTED: "It stopped because its caller's budget of the day was used up.",
}
_SIDES = {">=": "at least", "<=": "at most", "<": "below", "": ""}
_ITEMS_NAMED = 5


def decisions_section(facts: ReportFacts) -> Section:
    """Write what the runs decided; a run without gates says so, and what it found instead."""
    newest, *older = reversed(facts.runs)
    earlier = [folded(_title(each), _said_of(each), class_="older") for each in older]
    first = joined(tag("h3", _title(newest)), _said_of(newest))
    return Section("decisions", "Decisions", joined(first, *earlier, *map(_pair, facts.pairs), _regressions(facts)))


def _title(facts: RunFacts) -> Markup:
    kind, words = _verdict(facts)
    return joined(tag("bdi", facts.label), " ", badge(words, kind))


def _said_of(facts: RunFacts) -> Markup:
    run = facts.run
    remarks = [_STOPS.get(run.stop_reason, ""), f"It failed: {run.failure}" if run.failure else ""]
    if run.tier:
        reason = f" ({run.tier_choice.reason})" if run.tier_choice else ""
        remarks.append(f"Tier: {run.tier}{reason}.")
    told = " ".join(each for each in remarks if each)
    items = [_question(decision, question) for decision in run.decisions for question in decision.questions]
    return joined(tag("p", told, class_="note") if told else None, _list(items), *_unknown(facts))


def _verdict(facts: RunFacts) -> tuple[str, str]:
    run = facts.run
    if run.gates:
        return _OUTCOMES[outcome_of(run.decisions, len(run.gates))]
    if run.state is RunState.SUCCEEDED:
        return "quiet", "no gates were asked; see the estimates"
    return ("bad" if run.state is RunState.FAILED else "open"), f"{run.state.value}; no gates were asked"


def _list(items: list[Markup]) -> Markup:
    return tag("ul", *items, class_="decisions") if items else Markup()


def _question(decision: TaskDecision, question: QuestionDecision) -> Markup:
    kind = _KINDS.get(question.answer, "open")
    limits = (decision.lower, decision.upper)
    marks = [Mark(threshold, question.question)] if (threshold := _threshold(question)) is not None else []
    what = f"{decision.task} {decision.metric}"
    bounds = bounds_of([*limits, *(each.value for each in marks)])
    plot = interval_plot(
        decision.value,
        limits if decision.value is not None else None,
        bounds,
        description=description(what, decision.value, limits)
        + (f"; the bound is {question.question}" if marks else ""),
        marks=marks,
    )
    return tag(
        "li",
        tag(
            "div",
            tag("p", badge(question.answer.value, kind), " ", *_asked(decision, question), class_="said"),
            tag("p", _evidence(decision, question), class_="small"),
        ),
        tag("div", plot, axis(bounds)),
        class_=kind,
        data_task=decision.task,
        data_metric=decision.metric,
        data_answer=question.answer.value,
    )


def _asked(decision: TaskDecision, question: QuestionDecision) -> tuple[Child, ...]:
    task = joined(tag("bdi", decision.task), " ", tag("bdi", decision.metric))
    if not question.is_gate:
        return task, f" is known to within {question.question}"
    side = next(word for sign, word in _SIDES.items() if question.question.startswith(sign))
    return task, f" is {side} {question.question.lstrip('<>=')}"


def _threshold(question: QuestionDecision) -> float | None:
    try:
        return float(question.question.lstrip("<>=")) if question.is_gate else None
    except ValueError:
        return None


def _evidence(decision: TaskDecision, question: QuestionDecision) -> str:
    when = (
        f"decided after {count(question.decided_after)} of {count(decision.item_count)} items"
        if question.decided_after is not None
        else f"not decided after {count(decision.completed_count)} of {count(decision.item_count)} items"
    )
    saved = f"; {share(decision.saved_count, decision.item_count)} were never asked" if decision.saved_count else ""
    if decision.value is None:
        found = ""
    elif decision.is_exact:
        found = f" Every item is in: the task's mean is {number(decision.value)}."
    else:
        limits = span(decision.lower, decision.upper)
        found = f" Estimate for the whole task {number(decision.value)}, {limits} whenever one stops."
    return f"{when[0].upper()}{when[1:]}{saved}.{found}"


def _unknown(facts: RunFacts) -> Iterator[Markup]:
    for each in facts.run.decisions:
        if each.unknown_count:
            text = f"Of {each.task}, {count(each.unknown_count)} items have no score: the answers hold whatever it is."
            yield tag("p", text, class_="small")


def _pair(pair: ComparedPair) -> Markup:
    heading = tag("h3", tag("bdi", pair.variant), tag("span", " against ", class_="about"), tag("bdi", pair.base))
    if pair.compared is None:
        return joined(heading, tag("p", f"They cannot be compared item by item: {pair.refusal}", class_="note"))
    return joined(heading, _list([_difference(each) for each in pair.compared.comparisons]))


def _difference(each: Comparison) -> Markup:
    limits = (each.interval.lower, each.interval.upper) if each.interval else None
    kind, word = _direction(each, limits)
    reach = max((abs(end) for end in limits or (each.difference or 0.0,)), default=0.0) * 1.05 or 0.01
    named = joined(tag("bdi", each.task), " ", tag("bdi", each.metric))
    how = f"paired, {count(each.item_count)} items" if not each.unpaired_reasons else "compared as two samples"
    told = f"{number(each.base_value)} → {number(each.variant_value)}; {how}"
    told += f"; difference {span(*limits)}" if limits else ""
    told += f"; p = {each.p_value:.3g}" if each.p_value is not None else ""
    plot = interval_plot(
        each.difference, limits, (-reach, reach), marks=[Mark(0.0, "no difference")],
        description=description(f"{each.task} {each.metric}, difference", each.difference, limits),
    )  # fmt: skip
    return tag(
        "li",
        tag(
            "div",
            tag("p", badge(word, kind), " ", named, f" {signed(each.difference)}", class_="said"),
            tag("p", told, class_="small"),
        ),
        tag("div", plot, axis((-reach, reach))),
        class_=kind,
        data_task=each.task,
        data_difference=each.difference,
    )


def _direction(each: Comparison, limits: tuple[float, float] | None) -> tuple[str, str]:
    if limits is None or limits[0] <= 0 <= limits[1]:
        return "open", "may be chance"
    return ("bad", "worse") if (limits[0] > 0) == each.lower_is_better else ("good", "better")


def _regressions(facts: ReportFacts) -> Markup:
    if facts.regressions is None:
        if not facts.regressions_refusal:
            return Markup()
        told = tag("p", f"They cannot be watched: {facts.regressions_refusal}", class_="note")
        return joined(tag("h3", "Along the checkpoints"), told)
    alarms = facts.regressions.alarms
    word = badge("nothing became worse", "good") if not alarms else badge(f"{len(alarms)} became worse", "bad")
    note = "Drops of more than 0.01 are looked for; a false alarm has a probability of at most 5 % over all of them."
    items = [_alarm(each, facts, facts.regressions) for each in alarms]
    return joined(tag("h3", "Along the checkpoints ", word), tag("p", note, class_="note"), _list(items))


def _alarm(alarm: RegressionAlarm, facts: ReportFacts, found: Regressions) -> Markup:
    labels = {each.run.name: each.label for each in facts.runs}
    since = labels.get(found.runs[alarm.change_index], found.runs[alarm.change_index])
    noticed = labels.get(alarm.run, alarm.run)
    lost = ", ".join(alarm.lost_items[:_ITEMS_NAMED]) + (" …" if alarm.lost_count > _ITEMS_NAMED else "")
    evidence = f"Noticed at {noticed}, likely since {since}. {count(alarm.lost_count)} items lost"
    evidence += f" ({lost})" if lost else ""
    said = joined(tag("bdi", alarm.task), " ", tag("bdi", alarm.metric), f" {signed(alarm.difference)}")
    return tag(
        "li",
        tag("p", badge("worse", "bad"), " ", said, class_="said"),
        tag("p", f"{evidence}, {count(alarm.gained_count)} gained.", class_="small"),
        class_="bad wide",
        data_task=alarm.task,
    )
