"""Makes the prompt, the answers and the labels of one item out of its row."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from services.evaluation.datasets import Row
from services.evaluation.details import details_of
from services.evaluation.errors import RenderingError, UnreadableDataError
from services.evaluation.items import ChatPrompt, Choice, Item, Message, MultipleChoice, PlainPrompt, Prompt
from services.evaluation.rendering import Expression
from services.evaluation.specification import PromptFormat, RequestKind
from services.evaluation.tasks import Task, canonical_digest
from services.evaluation.templates import CHOICE, TaskTemplates

_Example = tuple[Mapping[str, Any], str, str]


class ItemRenderer:
    """Renders the items of one task.

    A plain prompt is, as in lm-evaluation-harness, preamble + for each example (prompt + delimiter + answer +
    separator) + prompt, and a continuation is delimiter + text. In a chat the preamble is the system message, an
    example is a user and an assistant turn, and only the chat template stands between prompt and answer.
    """

    def __init__(self, task: Task, templates: TaskTemplates, examples: Sequence[Row]) -> None:
        self._task = task
        self._spec = task.spec
        self._templates = templates
        self._preamble = templates.preamble.render(task.constants)
        self._count = self._spec.few_shot.count if self._spec.few_shot else 0
        self._examples: list[_Example] = [self._example(row) for row in examples]
        self.examples_digest = canonical_digest([self._preamble, [example[1:] for example in self._examples]])

    def item(self, item_id: str, row: Row) -> Item:
        """The item of ``row``.

        Raises:
            RenderingError: a template fails on the row, or its choices, gold or targets make no sense.
        """
        templates, values = self._templates, row.values
        is_choice = self._spec.request is RequestKind.MULTIPLE_CHOICE
        prompt = None if is_choice else self._prompt(values, templates.prompt.render(values))
        targets = _targets(templates.targets, values)
        is_scored = self._spec.request is RequestKind.LOG_LIKELIHOOD
        return Item(
            item_id=item_id,
            task=self._task.name,
            file_name=row.file_name,
            row_number=row.number,
            prompt=prompt,
            multiple_choice=self._multiple_choice(values) if is_choice else None,
            targets=targets,
            scored_text=_only_text(targets) if is_scored else None,
            delimiter=self._spec.delimiter if is_scored and isinstance(prompt, PlainPrompt) and prompt.text else "",
            groups={name: _label(name, expression.value(values)) for name, expression in templates.groups},
            cluster=None if templates.cluster is None else _label("cluster", templates.cluster.value(values)),
            details=tuple(details_of(use, values) for use in templates.details) if any(templates.details) else (),
        )

    def _prompt(self, values: Mapping[str, Any], question: str) -> Prompt:
        # An item is no example of itself; there is one to spare where that can happen.
        others = (example for example in self._examples if example[0] != values)
        examples = list(itertools.islice(others, self._count))
        if self._spec.format is PromptFormat.PLAIN:
            separator = self._spec.few_shot.separator if self._spec.few_shot else ""
            parts = [f"{asked}{self._spec.delimiter}{answer}{separator}" for _, asked, answer in examples]
            return PlainPrompt("".join([self._preamble, *parts, question]))
        messages = [Message("system", self._preamble)] if self._preamble else []
        for _, asked, answer in examples:
            messages += [Message("user", asked), Message("assistant", answer)]
        return ChatPrompt((*messages, Message("user", question)))

    def _multiple_choice(self, values: Mapping[str, Any]) -> MultipleChoice:
        texts = self._choices(values)
        delimiter = self._spec.delimiter if self._spec.format is PromptFormat.PLAIN else ""
        per_choice = CHOICE in self._templates.prompt.names
        shared = None if per_choice else self._prompt(values, self._templates.prompt.render(values))
        choices: list[Choice] = []
        for text in texts:
            context = shared or self._prompt(values, self._templates.prompt.render({**values, CHOICE: text}))
            choices.append(Choice(text, context, delimiter + self._continuation(values, text)))
        return MultipleChoice(tuple(choices), self._gold(values, len(texts)), self._unconditional(values))

    def _unconditional(self, values: Mapping[str, Any]) -> Prompt | None:
        template = self._templates.unconditional_prompt
        if template is None:
            return None
        text = template.render(values)
        if self._spec.format is PromptFormat.PLAIN:
            return PlainPrompt(text)
        if not text:
            raise RenderingError("`unconditional_prompt` is empty, and a chat has no empty turns")
        return ChatPrompt((Message("user", text),))

    def _choices(self, values: Mapping[str, Any]) -> list[str]:
        assert self._templates.choices is not None
        texts = self._templates.choices.value(values)
        if not isinstance(texts, list) or len(texts) < 2 or not all(isinstance(text, str) and text for text in texts):
            raise RenderingError(f"`choices` must give at least two non-empty texts, not {texts!r:.200}")
        return texts

    def _continuation(self, values: Mapping[str, Any], choice: str) -> str:
        template = self._templates.continuation
        text = choice if template is None else template.render({**values, CHOICE: choice})
        if not text:
            raise RenderingError("`continuation` is empty")
        return text

    def _gold(self, values: Mapping[str, Any], choice_count: int) -> tuple[int, ...]:
        assert self._templates.gold is not None
        value = self._templates.gold.value(values)
        indices = value if isinstance(value, list) else [value]
        whole = all(isinstance(index, int) and not isinstance(index, bool) for index in indices)
        if not indices or not whole or not all(0 <= index < choice_count for index in indices):
            raise RenderingError(f"`gold` is {value!r:.200}, which is no index of the {choice_count} choices")
        return tuple(sorted(set(indices)))

    def _example(self, row: Row) -> _Example:
        """The question and the answer of a few-shot example.

        Raises:
            UnreadableDataError: a template fails on it; no item could be rendered without it.
        """
        try:
            return row.values, *self._question_and_answer(row.values)
        except RenderingError as error:
            message = f"a few-shot example of task {self._task.name} cannot be used: {row.file_name} row {row.number}"
            raise UnreadableDataError(f"{message}: {error.message}") from error

    def _question_and_answer(self, values: Mapping[str, Any]) -> tuple[str, str]:
        prompt, answer = self._templates.prompt, self._templates.answer
        if self._spec.request is RequestKind.MULTIPLE_CHOICE:
            choices = self._choices(values)
            right = choices[self._gold(values, len(choices))[0]]
            question = prompt.render({**values, CHOICE: right} if CHOICE in prompt.names else values)
            return question, answer.render(values) if answer else self._continuation(values, right)
        if answer is not None:
            return prompt.render(values), answer.render(values)
        targets = _targets(self._templates.targets, values)
        if not targets:
            raise RenderingError("there is no target; give `few_shot.answer`")
        return prompt.render(values), targets[0]


def _targets(expression: Expression | None, values: Mapping[str, Any]) -> tuple[str, ...]:
    if expression is None:
        return ()
    value = expression.value(values)
    targets = value if isinstance(value, list) else [value]
    if not targets or not all(isinstance(target, str | int | float) and target != "" for target in targets):
        raise RenderingError(f"`targets` must give text or a list of texts, not {value!r:.200}")
    return tuple(str(target) for target in targets)


def _only_text(targets: Sequence[str]) -> str:
    if len(targets) != 1:
        raise RenderingError(f"`targets` must give the one text whose likelihood is asked for, not {len(targets)}")
    return targets[0]


def _label(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int):
        return str(value)
    raise RenderingError(f"{name!r} must be text or a whole number, not {value!r:.200}")
