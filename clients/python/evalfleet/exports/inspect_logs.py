"""Inspect AI: a ``.eval`` log a task, written through ``inspect_ai.log``; needs the extra ``inspect``.

Inspect's writer takes a whole log at once, so one task's items are in memory together.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalError,
    EvalLog,
    EvalMetric,
    EvalPlan,
    EvalPlanStep,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
    EvalStats,
    write_eval_log,
)
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.scorer import Score

from evalfleet.exports.files import file_name
from evalfleet.exports.sources import ExportedRun
from evalfleet.item_results import ItemResult
from evalfleet.item_texts import conversation_of
from evalfleet.results import Estimate, TaskProgress, TaskTotals

_STATES = {"succeeded": "success", "failed": "error", "cancelled": "cancelled"}


def write(run: ExportedRun, folder: Path) -> list[Path]:
    """Write ``RUN_TASK.eval`` for every task with outcomes; each metric is a score of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for totals in run.tasks:
        path = folder / f"{file_name(run.name)}_{file_name(totals.task)}.eval"
        write_eval_log(_log(run, totals), str(path))
        written.append(path)
    return written


def _log(run: ExportedRun, totals: TaskTotals) -> EvalLog:
    samples = [_sample(run, each) for each in run.read(totals.task)]
    progress = next((each for each in run.run.tasks if each.task == totals.task), None)
    started = run.run.start_time or run.ended
    status: Any = _STATES.get(run.run.state.value, "error")
    return EvalLog(
        status=status,
        eval=_spec(run, totals, progress, samples),
        plan=EvalPlan(name="evalfleet", steps=[EvalPlanStep(solver="generate")]),
        results=EvalResults(
            total_samples=totals.item_count,
            completed_samples=totals.scored_count,
            scores=[_score(each) for each in run.estimates(totals.task)],
            metadata={**_metadata(totals), "stopped_early": run.stopped_early(totals.task)},
        ),
        stats=EvalStats(
            started_at=started.isoformat(),
            completed_at=run.ended.isoformat(),
            model_usage={
                _model(run): _usage(totals.prompt_tokens, totals.completion_tokens, totals.prefix_saved_tokens)
            },
        ),
        error=_error(run.run.failure) if status == "error" else None,
        samples=samples,
    )


def _model(run: ExportedRun) -> str:
    return f"evalfleet/{run.model_name}"


def _spec(
    run: ExportedRun, totals: TaskTotals, progress: TaskProgress | None, samples: Sequence[EvalSample]
) -> EvalSpec:
    described = run.task(totals.task)
    return EvalSpec(
        created=(run.run.create_time or run.ended).isoformat(),
        run_id=run.name,
        eval_id=f"{run.name}-{totals.task}",
        task_id=f"{run.name}-{totals.task}",
        task=totals.task,
        dataset=EvalDataset(
            name=totals.task,
            samples=(progress.item_count if progress else None) or totals.item_count,
            sample_ids=list(dict.fromkeys(str(each.id) for each in samples)),
            shuffled=True,
        ),
        model=_model(run),
        config=EvalConfig(limit=run.run.item_limit, epochs=run.run.sample_count),
        packages={"evalfleet": version("evalfleet")},
        metadata={
            "run": run.run.name,
            "suite": run.run.suite,
            "suite_digest": run.run.suite_digest,
            "model_digest": run.run.model_digest,
            "data_digest": progress.data_digest if progress else "",
            "description": described.description if described else "",
            "comparable_to": described.comparable_to if described else "",
            "seed": run.run.seed,
        },
    )


def _metadata(totals: TaskTotals) -> dict[str, Any]:
    return {
        "cost_usd": totals.cost_usd,
        "engine_seconds": totals.engine_seconds,
        "computed_tokens": totals.computed_tokens,
        "prefix_saved_tokens": totals.prefix_saved_tokens,
        "cache_saved_tokens": totals.cache_saved_tokens,
        "failures_by_reason": dict(totals.failures_by_reason),
    }


def _score(each: Estimate) -> EvalScore:
    metrics = {} if each.value is None else {"mean": EvalMetric(name="mean", value=each.value)}
    if each.standard_error is not None:
        metrics["stderr"] = EvalMetric(name="stderr", value=each.standard_error)
    if each.interval is not None:
        about = {"confidence_level": each.interval.confidence_level, "method": each.interval.method}
        metrics["lower"] = EvalMetric(name="lower", value=each.interval.lower, params=about)
        metrics["upper"] = EvalMetric(name="upper", value=each.interval.upper, params=about)
    return EvalScore(
        name=each.metric,
        scorer=each.metric,
        scored_samples=each.scored_count,
        unscored_samples=each.failed_count,
        metrics=metrics,
    )


def _sample(run: ExportedRun, result: ItemResult) -> EvalSample:
    turns = conversation_of(result.prompt)
    messages: list[ChatMessage] = [_message(role, content) for role, content in turns]
    asked: list[ChatMessage] = messages or [ChatMessageUser(content=result.prompt)]
    output = ModelOutput.from_content(_model(run), result.output)
    usage = result.usage
    failure = result.failure
    return EvalSample(
        id=result.item,
        epoch=result.sample + 1,
        input=messages or result.prompt,
        target=list(result.targets) if len(result.targets) != 1 else result.targets[0],
        messages=[*asked, ChatMessageAssistant(content=result.output)],
        output=output,
        scores={name: _value(result, name, value) for name, value in result.metrics.items()} or None,
        metadata={
            **{f"group_{name}": text for name, text in result.groups.items()},
            "draw_index": result.draw_index,
            "judges": [f"{each.name}@{each.version}" for each in result.judges],
            "failures": [[each.reason, each.message, list(each.metrics)] for each in result.failures],
            "counted_as": {name: value for each in result.failures for name, value in each.counted_as.items()},
            "truncated": result.truncated,
            "cost_usd": usage.cost_usd,
            "engine_seconds": usage.engine_seconds,
            "computed_tokens": usage.computed_tokens,
        },
        model_usage={_model(run): _usage(usage.prompt_tokens, usage.completion_tokens, usage.prefix_saved_tokens)},
        error=_error(f"{failure.reason}: {failure.message}") if failure else None,
        completed_at=result.complete_time.isoformat() if result.complete_time else None,
        working_time=usage.engine_seconds,
    )


def _message(role: str, content: str) -> ChatMessage:
    match role:
        case "system":
            return ChatMessageSystem(content=content)
        case "assistant":
            return ChatMessageAssistant(content=content)
        case _:
            return ChatMessageUser(content=content)


def _value(result: ItemResult, name: str, value: float) -> Score:
    return Score(value=value, answer=result.extracted_answer, metadata={"metric": name})


def _usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> ModelUsage:
    return ModelUsage(
        input_tokens=prompt_tokens,
        output_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        input_tokens_cache_read=cached_tokens,
    )


def _error(message: str) -> EvalError:
    return EvalError(message=message, traceback="", traceback_ansi="")
