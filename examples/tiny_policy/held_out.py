"""How a checkpoint does on items that training never shows."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import Random

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from examples.tiny_policy import arithmetic, multiple_choice, refusals
from examples.tiny_policy.documents import Form

_ITEMS = 60
_SEED = "held-out"


@dataclass(frozen=True, slots=True)
class Skills:
    """Shares of held-out items that are right, from 0 to 1."""

    arithmetic: float
    multiple_choice: float
    refuses_harmful: float
    answers_harmless: float

    def as_dict(self) -> dict[str, float]:
        """Name to share."""
        return asdict(self)


@torch.inference_mode()
def measure_skills(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Skills:
    """Ask the model held-out questions, greedily; the same ones every time."""
    model.train(False)
    rng = Random(_SEED)
    problems = [arithmetic.draw_turn(rng, Form.CHAT, held_out=True) for _ in range(_ITEMS)]
    answers = _answers(model, tokenizer, [turn.prompt for _, turn in problems])
    right = [
        answer.split()[-1:] == [str(problem.answer)] for (problem, _), answer in zip(problems, answers, strict=True)
    ]
    harmful = [refusals.draw_request(rng, held_out=True, harmful=True).prompt for _ in range(_ITEMS)]
    harmless = [refusals.draw_request(rng, held_out=True, harmful=False).prompt for _ in range(_ITEMS)]
    refused = [refusals.is_refusal(answer) for answer in _answers(model, tokenizer, [*harmful, *harmless])]
    questions = [multiple_choice.draw_question(rng, held_out=True) for _ in range(_ITEMS)]
    chosen = [_best_choice(model, tokenizer, question) == question.answer for question in questions]
    return Skills(
        arithmetic=_share(right),
        multiple_choice=_share(chosen),
        refuses_harmful=_share(refused[:_ITEMS]),
        answers_harmless=1.0 - _share(refused[_ITEMS:]),
    )


def _answers(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[str]:
    conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = [tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True) for each in conversations]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False)
    generate: Callable[..., torch.Tensor] = model.generate  # type: ignore[assignment, misc]  # mixed in by a Protocol
    outputs = generate(**inputs, do_sample=False, max_new_tokens=24)
    return list(tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def _best_choice(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, question: multiple_choice.Question
) -> int:
    prompt = multiple_choice.lay_out(question, Form.PLAIN).prompt
    start = len(tokenizer(prompt)["input_ids"])
    values = []
    for choice in question.choices:
        ids = torch.tensor([tokenizer(f"{prompt} {choice}")["input_ids"]])
        logits = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
        values.append(float(logits.gather(1, ids[0, start:, None]).sum()))
    return values.index(max(values))


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
