"""How well a model does on items that training never showed, asked the way an evaluation asks."""

import re
from collections.abc import Callable, Iterable, Sequence
from random import Random

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from examples.tiny_policy import arithmetic, multiple_choice, refusals
from examples.tiny_policy.checkpoints import SkillScores
from examples.tiny_policy.documents import Form, Turn

_ITEM_SEED = 20_000  # the same items for every checkpoint, whatever the seed of the training
_ARITHMETIC_ITEMS = 120
_CHOICE_ITEMS = 200
_REQUEST_ITEMS = 80
_ROWS_AT_ONCE = 64
_ARITHMETIC_ANSWER_TOKENS = 18  # "12 + 34 = 46\n#### 46" and the end
_REQUEST_ANSWER_TOKENS = 8


class SkillExam:
    """Asks one model the held-out items."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
        self._model = model
        self._tokenizer = tokenizer
        # The class mixes generation in under a Protocol that type checkers cannot match.
        self._generate_greedily: Callable[..., torch.Tensor] = model.generate  # type: ignore[assignment, misc]

    @torch.inference_mode()
    def take(self) -> SkillScores:
        """Score the model on arithmetic, multiple choice and refusal."""
        self._model.train(False)
        try:
            return SkillScores(self._arithmetic(), self._multiple_choice(), self._refusal())
        finally:
            self._model.train()

    def _arithmetic(self) -> float:
        """Share of right last numbers in greedy answers, half of them to chat messages, half to plain text."""
        rng = Random(_ITEM_SEED)
        prompts: list[list[int]] = []
        wanted: list[str] = []
        for index in range(_ARITHMETIC_ITEMS):
            form = (Form.CHAT, Form.PLAIN)[index % 2]
            problem = arithmetic.draw_problem(rng, held_out=True)
            prompts.append(self._encode(arithmetic.lay_out(problem, form, rng), form))
            wanted.append(str(problem.answer))
        answers = self._generate(prompts, _ARITHMETIC_ANSWER_TOKENS)
        numbers = (re.findall(r"\d+", answer) for answer in answers)
        return _share(bool(found) and found[-1] == right for found, right in zip(numbers, wanted, strict=True))

    def _multiple_choice(self) -> float:
        """Share of questions whose right letter is the likeliest of the four."""
        rng = Random(_ITEM_SEED)
        prompts: list[list[int]] = []
        forms: list[Form] = []
        answers: list[int] = []
        for index in range(_CHOICE_ITEMS):
            form = (Form.CHAT, Form.PLAIN)[index % 2]
            question = multiple_choice.draw_question(rng, held_out=True)
            prompts.append(self._encode(multiple_choice.lay_out_letters(question, form, rng), form))
            forms.append(form)
            answers.append(question.answer)
        letters = {
            form: [self._letter_id(prefix + letter) for letter in multiple_choice.LETTERS]
            for form, prefix in ((Form.CHAT, ""), (Form.PLAIN, " "))
        }
        right: list[bool] = []
        for start in range(0, len(prompts), _ROWS_AT_ONCE):
            rows = range(start, min(start + _ROWS_AT_ONCE, len(prompts)))
            tokens, mask = self._pad([prompts[row] for row in rows])
            logits = self._model(input_ids=tokens, attention_mask=mask, logits_to_keep=1).logits[:, -1]
            right += [int(logits[i, letters[forms[row]]].argmax()) == answers[row] for i, row in enumerate(rows)]
        return _share(right)

    def _refusal(self) -> float:
        """Share of requests treated rightly: harmful ones refused, look-alikes not; half of each."""
        rng = Random(_ITEM_SEED)
        requests = [
            refusals.draw_request(rng, held_out=True, harmful=index % 2 == 0) for index in range(_REQUEST_ITEMS)
        ]
        prompts = [self._encode(request.as_turn(), Form.CHAT) for request in requests]
        answers = self._generate(prompts, _REQUEST_ANSWER_TOKENS)
        return _share(
            refusals.is_refusal(answer) == bool(request.hazard)
            for answer, request in zip(answers, requests, strict=True)
        )

    def _encode(self, turn: Turn, form: Form) -> list[int]:
        if form is Form.PLAIN:
            return list(self._tokenizer(turn.prompt)["input_ids"])
        message = [{"role": "user", "content": turn.prompt}]
        rendered = self._tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        return list(self._tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def _letter_id(self, text: str) -> int:
        (token,) = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return int(token)

    def _pad(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Pad at the left: int64 tokens and mask, both (rows, length)."""
        length = max(map(len, prompts))
        pad = self._tokenizer.pad_token_id
        tokens = torch.tensor([[pad] * (length - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return tokens, mask

    def _generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[str]:
        answers: list[str] = []
        for start in range(0, len(prompts), _ROWS_AT_ONCE):
            tokens, mask = self._pad(prompts[start : start + _ROWS_AT_ONCE])
            output = self._generate_greedily(input_ids=tokens, attention_mask=mask, max_new_tokens=new_tokens)
            answers += self._tokenizer.batch_decode(output[:, tokens.shape[1] :], skip_special_tokens=True)
        return answers


def _share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found)
