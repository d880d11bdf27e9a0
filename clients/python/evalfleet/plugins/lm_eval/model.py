"""A checkpoint of the fleet as a model of lm-evaluation-harness."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from evalfleet.answers import Priority
from evalfleet.client_settings import ClientSettings
from evalfleet.connections import Connection
from evalfleet.endpoints import find_endpoints
from evalfleet.errors import InvalidArgumentError
from evalfleet.generation.v1 import generation_pb2
from evalfleet.models import Models
from evalfleet.plugins.lm_eval import chats
from evalfleet.plugins.lm_eval.asking import PATIENCE_SECONDS, GenerationStreams
from evalfleet.plugins.lm_eval.grouping import by_context, by_prompt
from evalfleet.plugins.lm_eval.wishes import DEFAULT_MAX_TOKENS, Wishes

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

_PRIORITIES: Mapping[Priority, generation_pb2.Priority.ValueType] = {
    "interactive": generation_pb2.PRIORITY_INTERACTIVE,
    "evaluation": generation_pb2.PRIORITY_EVALUATION,
    "background": generation_pb2.PRIORITY_BACKGROUND,
}


@register_model("evalfleet")
class EvalFleetLM(LM):  # type: ignore[misc] # the harness is not annotated
    """Asks a fleet. Log-likelihoods and truncation are as with the harness's Hugging Face model.

    All continuations of a context go in one request, so that the context is computed once; requests travel over streams
    that the service reads as fast as it can answer. Batching is the service's matter: ``batch_size`` changes nothing.

    Args:
        model: name of a registered model.
        checkpoint: a checkpoint folder, in place of a name; it is registered if it is not.
        endpoint: ``host:port`` of the generation service; default: the environment, or the fleet on this machine.
        caller: who is asking, for the sums of cost; default: the environment's ``EVALFLEET_CALLER``.
        priority: ``interactive``, ``evaluation`` or ``background``.
        max_gen_toks: most tokens of an answer where a task does not say.
        patience_seconds: longest time in which the service may answer nothing.
        batch_size: not used; the harness gives it to every model, as it does the next two.
        max_batch_size: not used.
        device: not used.

    Raises:
        EvalFleetError: the fleet cannot be reached, or has no such model.
    """

    def __init__(
        self,
        model: str = "",
        *,
        checkpoint: str | None = None,
        endpoint: str | None = None,
        caller: str | None = None,
        priority: Priority = "evaluation",
        max_gen_toks: int = DEFAULT_MAX_TOKENS,
        patience_seconds: float = PATIENCE_SECONDS,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if bool(model) == bool(checkpoint):
            raise InvalidArgumentError(
                "model_args: give either model=NAME or checkpoint=FOLDER", reason="MODEL_MISSING"
            )
        if priority not in _PRIORITIES:
            raise InvalidArgumentError(
                f"model_args: priority is {priority!r}; it must be one of {', '.join(_PRIORITIES)}",
                reason="PRIORITY_INVALID",
            )
        endpoints = find_endpoints({"generation": endpoint} if endpoint else None)
        settings = ClientSettings.with_environment(caller=caller)
        connection = Connection("generation", endpoints.target("generation"), settings)
        models = Models(connection)
        self._model = models.add(checkpoint) if checkpoint else models.get(model)
        self._streams = GenerationStreams(connection, patience_seconds=patience_seconds)
        self._priority = _PRIORITIES[priority]
        self._max_tokens = max_gen_toks

    @property
    def tokenizer_name(self) -> str:
        """The model with its digest, which covers tokenizer and chat template."""
        return f"evalfleet--{self._model.digest}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return nothing: the checkpoint's own template is applied where the checkpoint is.

        Raises:
            InvalidArgumentError: CHAT_TEMPLATE_NOT_OFFERED: one was asked for by its name.
        """
        if isinstance(chat_template, str):
            raise InvalidArgumentError(
                f"chat template {chat_template!r}: the fleet has the checkpoint's own one only; say "
                "--apply_chat_template without a name",
                reason="CHAT_TEMPLATE_NOT_OFFERED",
            )
        return ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the conversation as a text that is sent as a conversation.

        The model's turn is opened behind it, or continued where the last turn is the assistant's.

        Raises:
            InvalidArgumentError: CHAT_NOT_READABLE: the model's turn was not to be opened, and there is none.
        """
        if add_generation_prompt == (chat_history[-1]["role"] == "assistant"):
            raise InvalidArgumentError(
                "a conversation is continued exactly if its last turn is the assistant's", reason="CHAT_NOT_READABLE"
            )
        return chats.written(chat_history)

    def loglikelihood(self, requests: list["Instance"], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score continuations behind their contexts."""
        pairs = [(str(each.args[0]), str(each.args[1])) for each in requests]
        scored = self._scored(pairs, disable_tqdm, "Scoring continuations")
        for pair, score in zip(pairs, scored, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, score)
        return scored

    def loglikelihood_rolling(self, requests: list["Instance"], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts; one longer than the model's context is scored in windows, as in the harness."""
        texts = [str(each.args[0]) for each in requests]
        scored = self._scored([("", text) for text in texts], disable_tqdm, "Scoring texts")
        for text, (value, _) in zip(texts, scored, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), value)
        return [value for value, _ in scored]

    def generate_until(self, requests: list["Instance"], disable_tqdm: bool = False) -> list[str]:
        """Generate answers; a prompt that is asked several times is one request for so many samples."""
        asked = [(str(each.args[0]), Wishes.read(each.args[1], max_tokens=self._max_tokens)) for each in requests]
        groups = by_prompt(asked)
        messages = [self._generation(each.prompt, each.wishes.of_part(each.part), len(each.places)) for each in groups]
        texts = [""] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Generating") as bar:
            for index, answer in self._streams.generate(messages):
                places = groups[index].places
                # A greedy answer was asked for once, however many want it.
                found = [each.text for each in answer.completions] * (len(places) // len(answer.completions))
                for place, text in zip(places, found, strict=True):
                    texts[place] = text
                    self.cache_hook.add_partial("generate_until", requests[place].args, text)
                bar.update(len(places))
        return texts

    def _scored(self, pairs: Sequence[tuple[str, str]], is_quiet: bool, what: str) -> list[tuple[float, bool]]:
        groups = by_context(pairs)
        messages = [self._scoring(group.context, group.continuations) for group in groups]
        scores: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        with tqdm(total=len(pairs), disable=is_quiet, desc=what) as bar:
            for index, answer in self._streams.score(messages):
                for places, score in zip(groups[index].places, answer.scores, strict=True):
                    for place in places:
                        scores[place] = (score.log_likelihood, score.is_greedy)
                    bar.update(len(places))
        return scores

    def _scoring(self, context: str, continuations: Iterable[str]) -> generation_pb2.ScoreContinuationsRequest:
        conversation = chats.conversation(context)
        request = generation_pb2.ScoreContinuationsRequest(
            model=self._model.name,
            conversation=conversation,
            continuations=continuations,
            truncation=generation_pb2.TRUNCATION_POLICY_LEFT,
            priority=self._priority,
        )
        if conversation is None:
            request.prompt = context
        return request

    def _generation(self, prompt: str, wishes: Wishes, count: int) -> generation_pb2.GenerateRequest:
        conversation = chats.conversation(prompt)
        request = generation_pb2.GenerateRequest(
            model=self._model.name,
            conversation=conversation,
            sampling=wishes.parameters(),
            sample_count=count if wishes.temperature else 1,
            truncation=generation_pb2.TRUNCATION_POLICY_LEFT,
            priority=self._priority,
        )
        if conversation is None:
            request.prompt = prompt
        return request
