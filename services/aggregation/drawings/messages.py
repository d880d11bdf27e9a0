"""Translate between the contract's messages of drawings and the domain."""

from evalfleet.aggregation.v1 import drawing_pb2

from services.aggregation.drawings.records import (
    DEFAULT_INTERVAL_ALPHA,
    INTERVAL_METHOD,
    Drawing,
    DrawingSpec,
    DrawnItems,
    Question,
    TaskDecision,
)
from services.aggregation.sequential.questions import (
    Decision,
    DecisionState,
    Direction,
    GateRule,
    PrecisionRule,
    RareRule,
)

DIRECTIONS = {
    drawing_pb2.GATE_DIRECTION_AT_LEAST: Direction.AT_LEAST,
    drawing_pb2.GATE_DIRECTION_AT_MOST: Direction.AT_MOST,
}
_DIRECTION_NUMBERS = {direction: number for number, direction in DIRECTIONS.items()}
_STATES = {
    DecisionState.UNDECIDED: drawing_pb2.QUESTION_STATE_UNDECIDED,
    DecisionState.PASSED: drawing_pb2.QUESTION_STATE_PASSED,
    DecisionState.FAILED: drawing_pb2.QUESTION_STATE_FAILED,
    DecisionState.REACHED: drawing_pb2.QUESTION_STATE_REACHED,
}


def spec_from_proto(message: drawing_pb2.DrawingSpec) -> DrawingSpec:
    """Translate a checked spec; see ``drawings.checks``."""
    has_alpha = message.HasField("interval_alpha")
    return DrawingSpec(
        run=message.run,
        task=message.task,
        metric=message.metric,
        seed=message.seed,
        model=message.model,
        model_digest=message.model_digest,
        data_digest=message.data_digest,
        questions=tuple(_question_from_proto(each) for each in message.questions),
        samples=message.samples or 1,
        has_binary_scores=message.has_binary_scores,
        uses_history=message.history_mode != drawing_pb2.HISTORY_MODE_NONE,
        previous_run=message.previous_run,
        history_runs=tuple(message.history_runs),
        interval_alpha=message.interval_alpha if has_alpha else DEFAULT_INTERVAL_ALPHA,
    )


def drawing_to_proto(drawing: Drawing) -> drawing_pb2.Drawing:
    """Translate a drawing."""
    message = drawing_pb2.Drawing(
        spec=_spec_to_proto(drawing.spec),
        item_count=len(drawing.item_ids),
        order_digest=drawing.order_digest,
        history_runs=drawing.history_runs,
    )
    message.create_time.FromMicroseconds(drawing.create_microseconds)
    return message


def drawn_to_proto(drawn: DrawnItems) -> drawing_pb2.DrawItemsResponse:
    """Translate drawn items."""
    return drawing_pb2.DrawItemsResponse(
        draws=[
            drawing_pb2.Draw(
                position=each.position,
                item_id=each.item_id,
                draw_index=each.draw_index,
                probability=each.probability,
            )
            for each in drawn.draws
        ],
        batch=drawn.batch,
        is_exhausted=drawn.is_exhausted,
        awaited_count=drawn.awaited_count,
        decision=decision_to_proto(drawn.decision),
    )


def decision_to_proto(decision: TaskDecision) -> drawing_pb2.TaskDecision:
    """Translate what a drawing's results decide."""
    return drawing_pb2.TaskDecision(
        run=decision.spec.run,
        task=decision.spec.task,
        metric=decision.spec.metric,
        questions=[_answer_to_proto(question, answer) for question, answer in decision.questions],
        is_decided=decision.is_decided,
        interval=interval_to_proto(decision),
        value=decision.value,
        completed_count=decision.completed_count,
        drawn_count=decision.drawn_count,
        item_count=decision.item_count,
        saved_count=decision.saved_count,
        unknown_count=decision.unknown_count,
        is_exact=decision.is_exact,
        draws_digest=decision.draws_digest,
        expected_remaining_count=decision.expected_remaining,
    )


def interval_to_proto(decision: TaskDecision) -> drawing_pb2.AnytimeInterval:
    """Translate the interval for the mean over all items."""
    return drawing_pb2.AnytimeInterval(
        lower=decision.lower,
        upper=decision.upper,
        confidence_level=decision.spec.confidence_level,
        method=INTERVAL_METHOD,
    )


def _spec_to_proto(spec: DrawingSpec) -> drawing_pb2.DrawingSpec:
    is_steered = spec.uses_history
    return drawing_pb2.DrawingSpec(
        run=spec.run,
        task=spec.task,
        metric=spec.metric,
        seed=spec.seed,
        model=spec.model,
        model_digest=spec.model_digest,
        data_digest=spec.data_digest,
        questions=[_question_to_proto(each) for each in spec.questions],
        samples=spec.samples,
        has_binary_scores=spec.has_binary_scores,
        history_mode=drawing_pb2.HISTORY_MODE_AUTO if is_steered else drawing_pb2.HISTORY_MODE_NONE,
        previous_run=spec.previous_run,
        history_runs=spec.history_runs,
        interval_alpha=spec.interval_alpha,
    )


def _question_from_proto(message: drawing_pb2.Question) -> Question:
    false_failure = message.false_failure_alpha if message.HasField("false_failure_alpha") else message.alpha
    match message.WhichOneof("kind"):
        case "gate":
            gate = message.gate
            return GateRule(gate.threshold, DIRECTIONS[gate.direction], message.alpha, false_failure)
        case "precision":
            return PrecisionRule(message.precision.half_width, message.alpha)
        case _:
            return RareRule(message.rare_rate.below, message.alpha, false_failure)


def _question_to_proto(question: Question) -> drawing_pb2.Question:
    match question:
        case GateRule():
            gate = drawing_pb2.Gate(direction=_DIRECTION_NUMBERS[question.direction], threshold=question.threshold)
            return drawing_pb2.Question(gate=gate, alpha=question.false_pass, false_failure_alpha=question.false_fail)
        case RareRule():
            rare = drawing_pb2.RareRate(below=question.limit)
            return drawing_pb2.Question(
                rare_rate=rare, alpha=question.false_pass, false_failure_alpha=question.false_fail
            )
        case _:
            precision = drawing_pb2.Precision(half_width=question.half_width)
            return drawing_pb2.Question(precision=precision, alpha=question.alpha)


def _answer_to_proto(question: Question, answer: Decision) -> drawing_pb2.QuestionDecision:
    has_evidence = not isinstance(question, PrecisionRule)
    return drawing_pb2.QuestionDecision(
        question=_question_to_proto(question),
        state=_STATES[answer.state],
        decided_after=answer.decided_after,
        log_evidence_pass=answer.log_evidence_pass if has_evidence else None,
        log_evidence_fail=answer.log_evidence_fail if has_evidence else None,
    )
