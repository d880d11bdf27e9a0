"""Between drawings and decisions and their protos."""

from evalfleet.aggregation.v1 import drawing_pb2

from services.evaluation.runs.decisions import Answer, QuestionDecision, TaskDecision
from services.evaluation.runs.drawings import Draw, DrawingRequest, DrawnBlock
from services.evaluation.runs.gates import Direction, Gate, Precision

DIRECTIONS = {
    Direction.AT_LEAST: drawing_pb2.GATE_DIRECTION_AT_LEAST,
    Direction.AT_MOST: drawing_pb2.GATE_DIRECTION_AT_MOST,
}
DIRECTIONS_FROM_PROTO = {number: direction for direction, number in DIRECTIONS.items()}
_STATES = {
    Answer.UNDECIDED: drawing_pb2.QUESTION_STATE_UNDECIDED,
    Answer.PASSED: drawing_pb2.QUESTION_STATE_PASSED,
    Answer.FAILED: drawing_pb2.QUESTION_STATE_FAILED,
    Answer.REACHED: drawing_pb2.QUESTION_STATE_REACHED,
}
# A state that this version does not know decides nothing.
_ANSWERS = {number: answer for answer, number in _STATES.items()}


def spec_to_proto(request: DrawingRequest) -> drawing_pb2.DrawingSpec:
    """What a drawing is about."""
    asked = request.questions
    return drawing_pb2.DrawingSpec(
        run=request.run,
        task=asked.task,
        metric=asked.metric,
        seed=request.seed,
        model=request.model,
        model_digest=request.model_digest,
        data_digest=request.data_digest,
        questions=[_question(each, asked.alpha) for each in asked.questions],
        samples=request.sample_count,
        history_mode=drawing_pb2.HISTORY_MODE_AUTO if request.uses_history else drawing_pb2.HISTORY_MODE_NONE,
        interval_alpha=asked.alpha,
        history_runs=request.earlier_runs,
        previous_run=request.previous_run if request.uses_history else "",
    )


def _question(question: Gate | Precision, alpha: float) -> drawing_pb2.Question:
    match question:
        case Gate():
            gate = drawing_pb2.Gate(direction=DIRECTIONS[question.direction], threshold=question.threshold)
            return drawing_pb2.Question(gate=gate, alpha=alpha)
        case Precision():
            return drawing_pb2.Question(precision=drawing_pb2.Precision(half_width=question.half_width), alpha=alpha)


def block_from_proto(response: drawing_pb2.DrawItemsResponse) -> DrawnBlock:
    """The next items of a task."""
    return DrawnBlock(
        draws=tuple(Draw(each.position, each.item_id, each.draw_index) for each in response.draws),
        is_exhausted=response.is_exhausted,
        awaited_count=response.awaited_count if response.HasField("awaited_count") else None,
        decision=decision_from_proto(response.decision),
    )


def decision_from_proto(message: drawing_pb2.TaskDecision) -> TaskDecision:
    """What is decided about a task."""
    return TaskDecision(
        task=message.task,
        metric=message.metric,
        questions=tuple(_answered(each, message) for each in message.questions),
        is_decided=message.is_decided,
        value=message.value if message.HasField("value") else None,
        lower=message.interval.lower,
        upper=message.interval.upper,
        confidence_level=message.interval.confidence_level,
        method=message.interval.method,
        completed_count=message.completed_count,
        drawn_count=message.drawn_count,
        item_count=message.item_count,
        saved_count=message.saved_count,
        unknown_count=message.unknown_count,
        is_exact=message.is_exact,
        draws_digest=message.draws_digest,
        expected_remaining_count=(
            message.expected_remaining_count if message.HasField("expected_remaining_count") else None
        ),
    )


def _answered(message: drawing_pb2.QuestionDecision, of: drawing_pb2.TaskDecision) -> QuestionDecision:
    question: Gate | Precision
    if message.question.HasField("precision"):
        question = Precision(message.question.precision.half_width)
    else:
        gate = message.question.gate
        direction = DIRECTIONS_FROM_PROTO.get(gate.direction, Direction.AT_LEAST)
        question = Gate(of.task, direction, gate.threshold, of.metric)
    return QuestionDecision(
        question=question,
        alpha=message.question.alpha,
        answer=_ANSWERS.get(message.state, Answer.UNDECIDED),
        decided_after=message.decided_after if message.HasField("decided_after") else None,
        log_evidence_pass=message.log_evidence_pass if message.HasField("log_evidence_pass") else None,
        log_evidence_fail=message.log_evidence_fail if message.HasField("log_evidence_fail") else None,
    )


def decision_to_proto(run: str, decision: TaskDecision) -> drawing_pb2.TaskDecision:
    """What is decided about a task of ``run``."""
    return drawing_pb2.TaskDecision(
        run=run,
        task=decision.task,
        metric=decision.metric,
        questions=[
            drawing_pb2.QuestionDecision(
                question=_question(each.question, each.alpha),
                state=_STATES[each.answer],
                decided_after=each.decided_after,
                log_evidence_pass=each.log_evidence_pass,
                log_evidence_fail=each.log_evidence_fail,
            )
            for each in decision.questions
        ],
        is_decided=decision.is_decided,
        interval=drawing_pb2.AnytimeInterval(
            lower=decision.lower,
            upper=decision.upper,
            confidence_level=decision.confidence_level,
            method=decision.method,
        ),
        value=decision.value,
        completed_count=decision.completed_count,
        drawn_count=decision.drawn_count,
        item_count=decision.item_count,
        saved_count=decision.saved_count,
        unknown_count=decision.unknown_count,
        is_exact=decision.is_exact,
        draws_digest=decision.draws_digest,
        expected_remaining_count=decision.expected_remaining_count,
    )
