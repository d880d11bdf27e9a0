"""Between drawings as plain values and the aggregation service's messages."""

from collections.abc import Sequence
from typing import Final

from evalfleet import goal_messages
from evalfleet.aggregation.v1 import drawing_pb2
from evalfleet.decoding import moment
from evalfleet.drawing_results import Draw, Drawing, DrawingSpec, DrawnItems, Question
from evalfleet.names import full_name

DRAWING_TIMEOUT_SECONDS: Final = 120.0
"""Two million ids take the service a while."""
LARGEST_DRAW: Final = 10_000
_IDS_A_MESSAGE: Final = 10_000


def create_requests(spec: DrawingSpec, items: Sequence[str]) -> list[drawing_pb2.CreateDrawingRequest]:
    """Ask for a drawing of these items, in messages that the service takes."""
    first, *others = range(0, max(1, len(items)), _IDS_A_MESSAGE)
    return [
        drawing_pb2.CreateDrawingRequest(spec=_spec_message(spec), item_ids=items[first : first + _IDS_A_MESSAGE]),
        *(drawing_pb2.CreateDrawingRequest(item_ids=items[begin : begin + _IDS_A_MESSAGE]) for begin in others),
    ]


def draw_request(run: str, task: str, first_draw_index: int, count: int) -> drawing_pb2.DrawItemsRequest:
    """Ask for the next items."""
    return drawing_pb2.DrawItemsRequest(
        run=full_name("runs", run), task=task, first_draw_index=first_draw_index, count=count
    )


def decisions_request(run: str, task: str) -> drawing_pb2.GetDecisionsRequest:
    """Ask what is decided."""
    return drawing_pb2.GetDecisionsRequest(run=full_name("runs", run), task=task)


def drawing(message: drawing_pb2.Drawing) -> Drawing:
    """Translate a drawing."""
    return Drawing(
        spec=_spec(message.spec),
        item_count=message.item_count,
        order_digest=message.order_digest,
        history_runs=tuple(message.history_runs),
        create_time=moment(message.create_time) if message.HasField("create_time") else None,
    )


def drawn_items(message: drawing_pb2.DrawItemsResponse) -> DrawnItems:
    """Translate the next items."""
    return DrawnItems(
        draws=tuple(Draw(each.item_id, each.position, each.draw_index, each.probability) for each in message.draws),
        batch=message.batch,
        is_exhausted=message.is_exhausted,
        awaited_count=message.awaited_count if message.HasField("awaited_count") else None,
        decision=goal_messages.decision(message.decision),
    )


def _spec_message(spec: DrawingSpec) -> drawing_pb2.DrawingSpec:
    history = drawing_pb2.HISTORY_MODE_AUTO if spec.use_history else drawing_pb2.HISTORY_MODE_NONE
    return drawing_pb2.DrawingSpec(
        run=full_name("runs", spec.run),
        task=spec.task,
        metric=spec.metric,
        seed=spec.seed,
        model=full_name("models", spec.model),
        model_digest=spec.model_digest,
        data_digest=spec.data_digest,
        questions=[_question_message(each) for each in spec.questions],
        samples=spec.samples,
        has_binary_scores=spec.has_binary_scores,
        history_mode=history,
        previous_run=full_name("runs", spec.previous_run) if spec.previous_run else "",
        history_runs=[full_name("runs", each) for each in spec.history_runs],
        interval_alpha=spec.interval_alpha,
    )


def _spec(message: drawing_pb2.DrawingSpec) -> DrawingSpec:
    return DrawingSpec(
        run=message.run,
        task=message.task,
        metric=message.metric,
        seed=message.seed,
        model=message.model,
        model_digest=message.model_digest,
        data_digest=message.data_digest,
        questions=tuple(_question(each) for each in message.questions if each.WhichOneof("kind")),
        samples=message.samples or 1,
        has_binary_scores=message.has_binary_scores,
        use_history=message.history_mode != drawing_pb2.HISTORY_MODE_NONE,
        previous_run=message.previous_run,
        history_runs=tuple(message.history_runs),
        interval_alpha=message.interval_alpha if message.HasField("interval_alpha") else None,
    )


def _question_message(question: Question) -> drawing_pb2.Question:
    message = drawing_pb2.Question(alpha=question.alpha, false_failure_alpha=question.false_failure_alpha)
    if question.precision is not None:
        message.precision.half_width = question.precision
    elif question.below is not None:
        message.rare_rate.below = question.below
    elif question.at_least is not None:
        message.gate.direction = drawing_pb2.GATE_DIRECTION_AT_LEAST
        message.gate.threshold = question.at_least
    else:
        message.gate.direction = drawing_pb2.GATE_DIRECTION_AT_MOST
        message.gate.threshold = question.at_most or 0.0
    return message


def _question(message: drawing_pb2.Question) -> Question:
    kind, is_at_least = message.WhichOneof("kind"), message.gate.direction == drawing_pb2.GATE_DIRECTION_AT_LEAST
    return Question(
        at_least=message.gate.threshold if kind == "gate" and is_at_least else None,
        at_most=message.gate.threshold if kind == "gate" and not is_at_least else None,
        precision=message.precision.half_width if kind == "precision" else None,
        below=message.rare_rate.below if kind == "rare_rate" else None,
        alpha=message.alpha,
        false_failure_alpha=message.false_failure_alpha if message.HasField("false_failure_alpha") else None,
    )
