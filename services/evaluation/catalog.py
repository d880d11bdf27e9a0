"""Finds suites and tasks by name in the folders that hold them.

A folder has ``suites/*.yaml``, ``tasks/*.yaml`` and, for its own data, ``suites/data/``. A file is named after what it
defines. The first folder is the package's own; the operator adds others. No name may be defined twice in all folders: a
second definition would silently change what a known name measures. A broken or doubled definition does not keep the
others from working: asking for its name raises its error, and ``problems`` lists them all.

Every task name, and every family of variants, is also the name of a suite of just that, unless a suite file has it.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from services.evaluation.documents import Document, read_document, validate
from services.evaluation.errors import SpecificationError, SpecificationProblem
from services.evaluation.runs.gates import parsed_gate, with_metrics
from services.evaluation.specification import TaskSpec
from services.evaluation.suite_specification import SuiteSpec
from services.evaluation.tasks import Suite, Task, expand, with_changes
from services.evaluation.templates import TaskTemplates
from services.runtime.errors import FailedPreconditionError, FleetError, not_found
from services.runtime.names import nearest_names

PACKAGE_FOLDER = Path(__file__).parent

_Spec = TypeVar("_Spec", SuiteSpec, TaskSpec)
_Definitions = Mapping[str, tuple[Document, _Spec, Path] | SpecificationError]


class Catalog:
    """All suites and tasks of some folders; immutable."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._suites = _read_all(SuiteSpec, folders, "suites")
        self._task_files = _read_all(TaskSpec, folders, "tasks")
        self._tasks: dict[str, Task] = {}
        self._families: dict[str, tuple[Task, ...]] = {}
        for name, found in dict(self._task_files).items():
            if isinstance(found, SpecificationError):
                continue
            try:
                self._families[name] = _expand(*found)
            except SpecificationError as error:
                self._task_files[name] = error
        for name, family in self._families.items():
            self._add(name, family)

    @classmethod
    def load(cls, extra_folders: Iterable[Path] = ()) -> "Catalog":
        """Read the package's own folder and ``extra_folders``.

        Raises:
            FailedPreconditionError: an extra folder does not exist.
        """
        folders = [PACKAGE_FOLDER, *extra_folders]
        for folder in folders:
            if not folder.is_dir():
                raise FailedPreconditionError(
                    f"the suite folder {folder} does not exist; create it or correct EVALFLEET_SUITE_DIRS",
                    reason="SUITE_FOLDER_NOT_FOUND",
                )
        return cls(folders)

    @property
    def problems(self) -> tuple[SpecificationError, ...]:
        """Everything wrong with any file, by name; a suite that names an unknown task is found here too."""
        found = [each for kind in (self._suites, self._task_files) for each in kind.values()]
        broken = [each for each in found if isinstance(each, SpecificationError)]
        for name, entry in self._suites.items():
            if not isinstance(entry, SpecificationError):
                try:
                    self.suite(name)
                except SpecificationError as error:
                    if error not in broken:
                        broken.append(error)
        return tuple(broken)

    @property
    def suite_names(self) -> tuple[str, ...]:
        """Suites, tasks and families that can be run, in order; variants one by one are not listed."""
        broken = {name for name, found in self._suites.items() if isinstance(found, SpecificationError)}
        return tuple(sorted(({*self._suites} - broken) | {*self._families}))

    @property
    def task_names(self) -> tuple[str, ...]:
        """Every task, variants one by one, in order."""
        return tuple(sorted(self._tasks))

    def task(self, name: str) -> Task:
        """The task called ``name``.

        Raises:
            NotFoundError: there is none, with the nearest names.
            SpecificationError: its file is malformed.
        """
        self._raise_if_broken(self._task_files, name)
        if name not in self._tasks:
            raise not_found("task", name, [*self._tasks, *self._families])
        return self._tasks[name]

    def suite(self, name: str) -> Suite:
        """The suite called ``name``; see the module for which names are suites.

        Raises:
            NotFoundError: there is none, with the nearest names.
            SpecificationError: its file, or that of a task it names, is malformed, or it names an unknown task.
        """
        self._raise_if_broken(self._suites, name)
        found = self._suites.get(name)
        if found is not None and not isinstance(found, SpecificationError):
            return self._explicit_suite(*found)
        self._raise_if_broken(self._task_files, name)
        if name in self._families:
            family = self._families[name]
            tasks = tuple(_of_family(task) for task in family) if family[0].name != name else family
            return Suite(name, family[0].spec.description, tasks, implicit=True)
        if name in self._tasks:
            task = self._tasks[name]
            return Suite(name, task.spec.description, (task,), implicit=True)
        raise not_found("suite", name, [*self._suites, *self._families, *self._tasks])

    def _explicit_suite(self, document: Document, spec: SuiteSpec, _folder: Path) -> Suite:
        tasks: list[Task] = []
        for index, entry in enumerate(spec.tasks):
            self._raise_if_broken(self._task_files, entry.task)
            from_family = entry.task in self._families and entry.task not in self._tasks
            found = self._families[entry.task] if from_family else (self._tasks.get(entry.task),)
            for task in found:
                if task is None:
                    raise SpecificationError([self._unknown_task(document, index, entry.task)])
                try:
                    tasks.append(with_changes(task, entry, from_family=from_family))
                except ValueError as error:
                    raise SpecificationError([document.problem(("tasks", index), str(error))]) from error
        names = [task.name for task in tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SpecificationError([document.problem(("tasks",), f"named twice: {', '.join(twice)}")])
        self._check_gates(document, spec, tasks)
        return Suite(
            spec.name,
            spec.description,
            tuple(tasks),
            tiers={str(name): tier for name, tier in spec.tiers.items()},
            starting_tiers=spec.starting_tiers.model_dump(),
        )

    def _check_gates(self, document: Document, spec: SuiteSpec, tasks: Sequence[Task]) -> None:
        """Refuse a tier whose gate names what the suite does not have."""
        suite = Suite(spec.name, spec.description, tuple(tasks))
        for name, tier in spec.tiers.items():
            try:
                with_metrics([parsed_gate(text) for text in tier.gates], suite)
            except FleetError as error:
                raise SpecificationError([document.problem(("tiers", name, "gates"), error.message)]) from error

    def _unknown_task(self, document: Document, index: int, name: str) -> SpecificationProblem:
        near = nearest_names(name, [*self._tasks, *self._families])
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(self._families))}"
        return document.problem(("tasks", index), f"no task named {name!r}; {hint}")

    def _add(self, name: str, family: tuple[Task, ...]) -> None:
        """Register a family's tasks; a variant whose name another task has makes the family unusable."""
        taken = [task.name for task in family if task.name in self._tasks]
        taken += [task.name for task in family if task.name != name and task.name in self._task_files]
        if taken:
            found = self._task_files[name]
            if not isinstance(found, SpecificationError):
                problem = found[0].problem(("name",), f"another task is called {taken[0]!r} already; rename one")
                self._task_files[name] = SpecificationError([problem])
            return
        self._tasks.update({task.name: task for task in family})

    def _raise_if_broken(self, definitions: "_Definitions[_Spec]", name: str) -> None:
        found = definitions.get(name)
        if isinstance(found, SpecificationError):
            raise found


def _of_family(task: Task) -> Task:
    return Task(task.name, task.family, task.spec, task.constants, task.bundled_data, from_family=True)


def _expand(document: Document, spec: TaskSpec, folder: Path) -> tuple[Task, ...]:
    tasks = expand(spec, folder / "suites" / "data")
    TaskTemplates.check(document, tasks[0])
    return tasks


def _read_all(
    model: type[_Spec], folders: Sequence[Path], kind: str
) -> dict[str, tuple[Document, _Spec, Path] | SpecificationError]:
    """Read every definition of one kind; what is broken is kept as its error under the file's name."""
    result: dict[str, tuple[Document, _Spec, Path] | SpecificationError] = {}
    files: dict[str, Path] = {}
    for folder in folders:
        for path in sorted((folder / kind).glob("*.yaml")):
            if path.stem in files:
                description = f"{path.stem!r} is defined in {files[path.stem]} already; rename one"
                result[path.stem] = SpecificationError([SpecificationProblem(str(path), 1, "name", description)])
                continue
            files[path.stem] = path
            try:
                result[path.stem] = _read(model, path, folder)
            except SpecificationError as error:
                result[path.stem] = error
    return result


def _read(model: type[_Spec], path: Path, folder: Path) -> tuple[Document, _Spec, Path]:
    document = read_document(path)
    spec = validate(model, document)
    if spec.name != path.stem:
        description = f"{spec.name!r} must be the file's name, {path.stem!r}"
        raise SpecificationError([document.problem(("name",), description)])
    return document, spec, folder
