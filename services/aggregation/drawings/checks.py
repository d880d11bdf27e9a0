"""What a drawing must be before it is created."""

from collections.abc import Iterator

from evalfleet.aggregation.v1 import drawing_pb2

from services.aggregation.checks import MAX_NAME_CHARACTERS
from services.aggregation.drawings.errors import InvalidDrawingError
from services.aggregation.drawings.messages import DIRECTIONS, spec_from_proto
from services.aggregation.drawings.records import DrawingSpec
from services.runtime.errors import FieldViolation

MAX_ITEMS_A_MESSAGE = 10_000
MAX_ITEMS = 2_000_000
MAX_QUESTIONS = 32
MAX_SAMPLES = 1024
MAX_HISTORY_RUNS = 1000
LARGEST_ALPHA = 0.5
SMALLEST_ALPHA = 1e-12
SMALLEST_HALF_WIDTH = 0.001


class DrawingDraft:
    """Collects the messages that create a drawing."""

    def __init__(self) -> None:
        self._spec: DrawingSpec | None = None
        self._item_ids: dict[str, None] = {}

    def add(self, request: drawing_pb2.CreateDrawingRequest) -> None:
        """Take the next message.

        Raises:
            InvalidDrawingError: names everything that is wrong with it.
        """
        if request.HasField("spec") == (self._spec is not None):
            problem = "is missing in the first message" if self._spec is None else "belongs in the first message alone"
            raise _invalid([FieldViolation("spec", problem)])
        if self._spec is None:
            violations = list(_spec_violations(request.spec))
            if violations:
                raise _invalid(violations)
            self._spec = spec_from_proto(request.spec)
        if violations := list(self._item_violations(request)):
            raise _invalid(violations)

    def finished(self) -> tuple[DrawingSpec, tuple[str, ...]]:
        """Return the spec and the item ids.

        Raises:
            InvalidDrawingError: there is no message, or no item.
        """
        if self._spec is None:
            raise _invalid([FieldViolation("spec", "is missing: no message came")])
        if not self._item_ids:
            raise _invalid([FieldViolation("item_ids", "is empty; a task has one item at least")])
        return self._spec, tuple(self._item_ids)

    def _item_violations(self, request: drawing_pb2.CreateDrawingRequest) -> Iterator[FieldViolation]:
        count = len(request.item_ids)
        if count > MAX_ITEMS_A_MESSAGE:
            yield FieldViolation("item_ids", f"has {count} entries; a message holds up to {MAX_ITEMS_A_MESSAGE}")
            return
        if len(self._item_ids) + count > MAX_ITEMS:
            yield FieldViolation("item_ids", f"goes beyond {MAX_ITEMS} items; split the task")
            return
        for index, item in enumerate(request.item_ids):
            if item in self._item_ids:
                yield FieldViolation(f"item_ids[{index}]", f"is {item!r}, which came before")
            yield from _name_violations(f"item_ids[{index}]", item)
            self._item_ids[item] = None


def checked_place(run: str, task: str) -> None:
    """Refuse a run and a task that cannot have a drawing.

    Raises:
        InvalidDrawingError: says what is wrong.
    """
    if violations := [*_run_violations("run", run), *_name_violations("task", task)]:
        raise _invalid(violations)


def checked_draw(request: drawing_pb2.DrawItemsRequest) -> None:
    """Refuse a request for items that cannot be.

    Raises:
        InvalidDrawingError: says what is wrong.
    """
    checked_place(request.run, request.task)
    if request.first_draw_index < 0:
        raise _invalid([FieldViolation("first_draw_index", f"is {request.first_draw_index}; it counts from 0")])
    if not 1 <= request.count <= MAX_ITEMS_A_MESSAGE:
        raise _invalid([FieldViolation("count", f"is {request.count}; 1 to {MAX_ITEMS_A_MESSAGE}")])


def _spec_violations(spec: drawing_pb2.DrawingSpec) -> Iterator[FieldViolation]:
    yield from _run_violations("spec.run", spec.run)
    for field in ("task", "metric", "data_digest"):
        yield from _name_violations(f"spec.{field}", getattr(spec, field))
    if not (spec.model or spec.model_digest):
        yield FieldViolation("spec.model", "is empty, and so is model_digest")
    for field in ("model", "model_digest"):
        if getattr(spec, field):
            yield from _name_violations(f"spec.{field}", getattr(spec, field))
    yield from _history_violations(spec)
    if not 0 <= spec.samples <= MAX_SAMPLES:
        yield FieldViolation("spec.samples", f"is {spec.samples}; 1 to {MAX_SAMPLES}")
    if spec.HasField("interval_alpha"):
        yield from _alpha_violations("spec.interval_alpha", spec.interval_alpha)
    if len(spec.questions) > MAX_QUESTIONS:
        yield FieldViolation("spec.questions", f"has {len(spec.questions)} entries; up to {MAX_QUESTIONS}")
    for index, question in enumerate(spec.questions):
        yield from _question_violations(f"spec.questions[{index}]", question)


def _history_violations(spec: drawing_pb2.DrawingSpec) -> Iterator[FieldViolation]:
    if spec.history_mode not in drawing_pb2.HistoryMode.values():
        yield FieldViolation("spec.history_mode", f"is {spec.history_mode}, which this version does not know")
    if spec.previous_run:
        yield from _run_violations("spec.previous_run", spec.previous_run)
    for index, run in enumerate(spec.history_runs[:MAX_HISTORY_RUNS]):
        yield from _run_violations(f"spec.history_runs[{index}]", run)
    if len(spec.history_runs) > MAX_HISTORY_RUNS:
        yield FieldViolation("spec.history_runs", f"has {len(spec.history_runs)} entries; up to {MAX_HISTORY_RUNS}")


def _question_violations(field: str, question: drawing_pb2.Question) -> Iterator[FieldViolation]:
    yield from _alpha_violations(f"{field}.alpha", question.alpha)
    if question.HasField("false_failure_alpha"):
        yield from _alpha_violations(f"{field}.false_failure_alpha", question.false_failure_alpha)
    match question.WhichOneof("kind"):
        case "gate":
            if question.gate.direction not in DIRECTIONS:
                yield FieldViolation(f"{field}.gate.direction", "write AT_LEAST or AT_MOST")
            if not 0 <= question.gate.threshold <= 1:
                yield FieldViolation(f"{field}.gate.threshold", f"is {question.gate.threshold}; scores are from 0 to 1")
        case "precision":
            width = question.precision.half_width
            if not SMALLEST_HALF_WIDTH <= width <= 0.5:
                yield FieldViolation(f"{field}.precision.half_width", f"is {width}; {SMALLEST_HALF_WIDTH} to 0.5")
        case "rare_rate":
            if not 0 < question.rare_rate.below < 1:
                yield FieldViolation(f"{field}.rare_rate.below", f"is {question.rare_rate.below}; above 0 and below 1")
        case _:
            yield FieldViolation(f"{field}.kind", "set gate, precision or rare_rate")


def _alpha_violations(field: str, alpha: float) -> Iterator[FieldViolation]:
    if not SMALLEST_ALPHA <= alpha <= LARGEST_ALPHA:
        yield FieldViolation(field, f"is {alpha}; above 0 and at most {LARGEST_ALPHA}")


def _run_violations(field: str, run: str) -> Iterator[FieldViolation]:
    if not run.startswith("runs/") or run == "runs/":
        yield FieldViolation(field, f"is {run[:80]!r}; write runs/{{run}}")
    else:
        yield from _name_violations(field, run)


def _name_violations(field: str, name: str) -> Iterator[FieldViolation]:
    if not name:
        yield FieldViolation(field, "is empty")
    elif len(name) > MAX_NAME_CHARACTERS:
        yield FieldViolation(field, f"has {len(name)} characters; the limit is {MAX_NAME_CHARACTERS}")
    elif "\0" in name:
        yield FieldViolation(field, "holds the character U+0000")


def _invalid(violations: list[FieldViolation]) -> InvalidDrawingError:
    listed = "; ".join(f"{each.field} {each.description}" for each in violations[:5])
    return InvalidDrawingError(f"the drawing is refused: {listed}", field_violations=violations[:100])
