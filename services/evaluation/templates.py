"""The compiled templates of a task, checked against the columns that its rows have."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from services.evaluation.documents import Document, FieldPath
from services.evaluation.errors import SpecificationError, SpecificationProblem, TemplateError
from services.evaluation.rendering import Expression, Renderer, Template
from services.evaluation.source_specification import Source
from services.evaluation.tasks import Task
from services.runtime.names import nearest_names

CHOICE = "choice"
"""Name of the choice at hand in the templates ``prompt`` and ``continuation`` of a multiple-choice task."""


@dataclass(frozen=True, slots=True)
class TaskTemplates:
    """Everything of a task that is rendered, compiled once."""

    fields: tuple[tuple[str, Expression], ...]
    where: Expression | None
    item_id: Expression | None
    preamble: Template
    prompt: Template
    answer: Template | None
    choices: Expression | None
    continuation: Template | None
    unconditional_prompt: Template | None
    gold: Expression | None
    targets: Expression | None
    groups: tuple[tuple[str, Expression], ...]
    cluster: Expression | None
    details: tuple[tuple[tuple[str, Expression], ...], ...]
    """Of each scorer, in the order of the definition."""

    @classmethod
    def compile(cls, task: Task) -> "TaskTemplates":
        """Compile the templates of ``task``, whose definition ``check`` has passed."""
        renderer, spec = Renderer(), task.spec

        def expression(source: str | None) -> Expression | None:
            return None if source is None else renderer.expression(source)

        def template(source: str | None) -> Template | None:
            return None if source is None else renderer.template(source)

        return cls(
            fields=tuple((name, renderer.expression(source)) for name, source in spec.fields.items()),
            where=expression(spec.where),
            item_id=expression(spec.item_id),
            preamble=renderer.template(spec.preamble),
            prompt=renderer.template(spec.prompt),
            answer=template(spec.few_shot.answer if spec.few_shot else None),
            choices=expression(spec.choices),
            continuation=template(spec.continuation),
            unconditional_prompt=template(spec.unconditional_prompt),
            gold=expression(spec.gold),
            targets=expression(spec.targets),
            groups=tuple((name, renderer.expression(source)) for name, source in spec.groups.items()),
            cluster=expression(spec.cluster),
            details=tuple(
                tuple((name, renderer.expression(source)) for name, source in use.details.items())
                for use in spec.scorers
            ),
        )

    @staticmethod
    def check(document: Document, task: Task) -> None:
        """Compile every template and expression of the definition behind ``task`` and look up every name in it.

        Raises:
            SpecificationError: one problem a template that is wrong or names a column that the rows do not have.
        """
        problems = list(_Checker(document, task).problems())
        if problems:
            raise SpecificationError(sorted(problems, key=lambda problem: problem.line))


class _Checker:
    """Collects the problems of a definition's templates."""

    def __init__(self, document: Document, task: Task) -> None:
        self._document = document
        self._renderer = Renderer()
        self._spec = task.spec
        self._constants = frozenset(task.constants)

    def problems(self) -> Iterator[SpecificationProblem]:
        spec, constants = self._spec, self._constants
        for index, source in enumerate(spec.sources):
            yield from self._source(index, source)
        # What one source lacks cannot be relied on, whichever source is found.
        known = constants | frozenset.intersection(*(source.names for source in spec.sources))
        for name, text in spec.fields.items():
            yield from self._check(("fields", name), text, known, self._renderer.expression)
            known |= {name}
        per_choice = known | {CHOICE} if spec.choices is not None else known
        yield from self._check(("preamble",), spec.preamble, constants, self._renderer.template)
        yield from self._check(("prompt",), spec.prompt, per_choice, self._renderer.template)
        yield from self._check(("continuation",), spec.continuation, per_choice, self._renderer.template)
        yield from self._check(("unconditional_prompt",), spec.unconditional_prompt, known, self._renderer.template)
        for field in ("where", "item_id", "choices", "gold", "targets", "cluster"):
            yield from self._check((field,), getattr(spec, field), known, self._renderer.expression)
        for name, text in spec.groups.items():
            yield from self._check(("groups", name), text, known, self._renderer.expression)
        yield from self._few_shot(known)
        yield from self._variants()
        yield from self._scorers(known)
        stops = spec.generation.stop_from
        if stops is not None and stops not in constants:
            yield self._unknown(("generation", "stop_from"), stops, constants, "constant")
        columns = frozenset(spec.fields).union(*(source.names for source in spec.sources))
        for name in sorted((columns & constants) | ({CHOICE} & (columns | constants))):
            yield self._document.problem(("constants", name), f"{name!r} is also a column, or reserved; rename it")

    def _source(self, index: int, source: Source) -> Iterator[SpecificationProblem]:
        here: FieldPath = ("sources", index)
        for split, paths in source.files.items():
            for position, file in enumerate(paths):
                yield from self._check(
                    (*here, "files", split, position), file, self._constants, self._renderer.template
                )
        for position, each in enumerate(source.line_files):
            path = (*here, "line_files", position, "file")
            yield from self._check(path, each.file, self._constants, self._renderer.template)
        known = self._constants | (source.names - frozenset(source.fields)) | frozenset(source.columns)
        for name, text in source.fields.items():
            yield from self._check((*here, "fields", name), text, known, self._renderer.expression)
            known |= {name}

    def _scorers(self, known: frozenset[str]) -> Iterator[SpecificationProblem]:
        for index, use in enumerate(self._spec.scorers):
            here: FieldPath = ("scorers", index)
            for name, constant in use.parameters_from.items():
                if constant not in self._constants:
                    yield self._unknown((*here, "parameters_from", name), constant, self._constants, "constant")
            for name, text in use.details.items():
                yield from self._check((*here, "details", name), text, known, self._renderer.expression)

    def _few_shot(self, known: frozenset[str]) -> Iterator[SpecificationProblem]:
        few_shot = self._spec.few_shot
        if few_shot is None:
            return
        answer = few_shot.answer
        yield from self._check(("few_shot", "answer"), answer, known, self._renderer.template)
        for index, example in enumerate(few_shot.examples or ()):
            for name in sorted(example.keys() - known):
                yield self._unknown(("few_shot", "examples", index, name), name, known)
        if few_shot.split is not None:
            for index, source in enumerate(self._spec.sources):
                if few_shot.split not in source.files:
                    yield self._document.problem(("sources", index, "files"), f"has no split {few_shot.split!r}")

    def _variants(self) -> Iterator[SpecificationProblem]:
        variants = self._spec.variants
        if variants is None:
            return
        expected = next(iter(variants.values.values())).keys()
        for value, constants in variants.values.items():
            if constants.keys() != expected:
                wanted = ", ".join(sorted(expected)) or "none"
                yield self._document.problem(("variants", "values", value), f"must have the constants {wanted}")

    def _check(
        self,
        path: FieldPath,
        source: str | None,
        known: frozenset[str],
        compile_source: Callable[[str], Expression | Template],
    ) -> Iterator[SpecificationProblem]:
        if source is None:
            return
        try:
            unknown = compile_source(source).names - known
        except TemplateError as error:
            yield self._document.problem(path, error.message)
            return
        for name in sorted(unknown):
            yield self._unknown(path, name, known)

    def _unknown(self, path: FieldPath, name: str, known: frozenset[str], kind: str = "column") -> SpecificationProblem:
        near = nearest_names(name, known)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
        return self._document.problem(path, f"unknown {kind} {name!r}; {hint}")
