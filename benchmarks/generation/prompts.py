"""The prompts that both sides get: few-shot prompts of four public tasks, with fixed examples or each its own.

Fixed examples are EvalFleet's default; lm-evaluation-harness's default sampler draws anew for every question. Examples
are rows of the same set that are not asked; a question and its answer are separated from the next by an empty line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.items import Item, MultipleChoice, PlainPrompt
from services.evaluation.loading import LoadedTask, load_task, present_tasks
from services.evaluation.suite_specification import SuiteEntry
from services.evaluation.tasks import with_changes

MMLU_SUBJECTS = 4
GSM8K_EXAMPLES = 8
GSM8K_TOKENS = 128
GSM8K_STOPS = ("Question:", "</s>", "<|im_end|>")
_SEPARATOR = "\n\n"
_RESERVE = 200


@dataclass(frozen=True, slots=True)
class Question:
    """A context, what may follow it, and which of that is right."""

    context: str
    continuations: tuple[str, ...]
    gold: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Questions to score, or prompts to answer.

    Attributes:
        name: as in the names of the figures.
        questions: to score; empty if answers are generated.
        prompts: to answer; empty if questions are scored.
    """

    name: str
    questions: tuple[Question, ...] = ()
    prompts: tuple[str, ...] = ()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(context, continuation) of everything to score."""
        return [(question.context, each) for question in self.questions for each in question.continuations]

    def __len__(self) -> int:
        """Number of questions or prompts."""
        return len(self.questions) + len(self.prompts)


def prompt_sets(data_folders: Sequence[Path], rows: Mapping[str, int]) -> list[PromptSet]:
    """Build all sets; ``rows`` says how many questions each has, by the beginning of its name."""
    roots = DataRoots(tuple(data_folders))
    catalog = Catalog.load()

    def load(name: str) -> LoadedTask:
        return load_task(catalog.suite(name).tasks[0], roots)

    subjects, _ = present_tasks(catalog.suite("mmlu").tasks, roots)
    mmlu = [load_task(task, roots) for task in subjects[:MMLU_SUBJECTS]]
    entry = SuiteEntry(task="gsm8k", few_shot_count=GSM8K_EXAMPLES)
    gsm8k = load_task(with_changes(catalog.suite("gsm8k").tasks[0], entry, from_family=False), roots)
    hellaswag, arc = load("hellaswag"), load("arc_challenge")
    return [
        PromptSet("mmlu_5shot", _asked(mmlu, rows["mmlu"])),
        PromptSet("hellaswag_10shot", _few_shot(hellaswag, rows["hellaswag"], 10, own_examples=False)),
        PromptSet("arc_25shot", _few_shot(arc, rows["arc"], 25, own_examples=False)),
        PromptSet("hellaswag_10shot_own_examples", _few_shot(hellaswag, rows["own"], 10, own_examples=True)),
        PromptSet("arc_25shot_own_examples", _few_shot(arc, rows["own"], 25, own_examples=True)),
        PromptSet("gsm8k_8shot", prompts=_word_problems(gsm8k, rows["gsm8k"])),
    ]


def texts_to_learn_from(data_folders: Sequence[Path]) -> list[str]:
    """Texts of rows that are not asked, for the checkpoint's tokenizer."""
    roots = DataRoots(tuple(data_folders))
    catalog = Catalog.load()
    found = []
    for name in ("hellaswag", "arc_challenge"):
        loaded = load_task(catalog.suite(name).tasks[0], roots)
        for index in loaded.draw_order(seed=0)[-2000:]:
            if (choices := _choices(loaded, index)) is not None:
                found.append(_text(choices.choices[0].context) + "".join(each.continuation for each in choices.choices))
    return found


def _choices(loaded: LoadedTask, index: int) -> MultipleChoice | None:
    item = loaded.item(index)
    return item.multiple_choice if isinstance(item, Item) else None


def _text(prompt: object) -> str:
    assert isinstance(prompt, PlainPrompt)
    return prompt.text


def _question(choices: MultipleChoice, header: str = "") -> Question:
    return Question(
        header + _text(choices.choices[0].context),
        tuple(choice.continuation for choice in choices.choices),
        tuple(choices.gold_indices),
    )


def _asked(tasks: Sequence[LoadedTask], count: int) -> tuple[Question, ...]:
    """The first questions of several tasks whose examples are part of their definition."""
    found = []
    for task in tasks:
        for index in task.draw_order(seed=0, limit=-(-count // len(tasks))):
            if (choices := _choices(task, index)) is not None:
                found.append(_question(choices))
    return tuple(found)


def _few_shot(loaded: LoadedTask, count: int, examples: int, *, own_examples: bool) -> tuple[Question, ...]:
    order = loaded.draw_order(seed=0)
    reserve = [text for index in order[-_RESERVE:] if (text := _example(loaded, index)) is not None]
    fixed = "".join(reserve[:examples])
    found = []
    for index in order[:count]:
        if (choices := _choices(loaded, index)) is not None:
            own = "".join(Random(loaded.item(index).item_id).sample(reserve, examples))
            found.append(_question(choices, own if own_examples else fixed))
    return tuple(found)


def _example(loaded: LoadedTask, index: int) -> str | None:
    choices = _choices(loaded, index)
    if choices is None:
        return None
    right = choices.choices[choices.gold_indices[0]]
    return _text(right.context) + right.continuation + _SEPARATOR


def _word_problems(loaded: LoadedTask, count: int) -> tuple[str, ...]:
    order = loaded.draw_order(seed=0)
    found = []
    for index in order[:count]:
        item = loaded.item(index)
        if isinstance(item, Item) and item.prompt is not None:
            found.append(_text(item.prompt))
    return tuple(found)
