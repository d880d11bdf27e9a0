"""A checkpoint of the fleet as a model of Inspect AI: `evalfleet/step-1200`."""

from typing import cast

from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelCall, ModelOutput
from inspect_ai.model._model import RetryDecision
from inspect_ai.tool import ToolChoice, ToolInfo
from tenacity import RetryCallState, wait_exponential_jitter
from tenacity.wait import wait_base

from evalfleet.answers import ANSWER_TIMEOUT_SECONDS, Priority
from evalfleet.errors import DeadlineExceededError, InvalidArgumentError, ResourceExhaustedError, UnavailableError
from evalfleet.fleet import Fleet
from evalfleet.plugins.inspect import messages
from evalfleet.plugins.inspect.blocking import in_thread
from evalfleet.retrying import NO_RETRIES

MAX_CONNECTIONS = 64
_PRIORITIES = ("interactive", "evaluation", "background")
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0


class EvalFleetAPI(ModelAPI):
    """Asks a fleet's generation service.

    Args:
        model_name: name of a registered model.
        base_url: ``host:port`` of the generation service; default: the environment, or the fleet on this machine.
        api_key: not used.
        config: Inspect's options.
        priority: ``interactive``, ``evaluation`` or ``background``.
        caller: who is asking, for the sums of cost; default: the environment's ``EVALFLEET_CALLER``.

    Raises:
        EvalFleetError: there is no fleet, or it has no such model.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        priority: str = "evaluation",
        caller: str | None = None,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        if priority not in _PRIORITIES:
            raise InvalidArgumentError(
                f"priority is {priority!r}; it must be one of {', '.join(_PRIORITIES)}", reason="PRIORITY_INVALID"
            )
        self._priority = cast("Priority", priority)
        # Inspect repeats calls itself, and sends fewer at once when it sees that the service is full.
        targets = {"generation": base_url} if base_url else None
        self._fleet = Fleet.connect(targets, caller=caller, retries=NO_RETRIES)
        # A wrong name is told here, once, and not by every sample.
        self._fleet.models.get(model_name)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput | tuple[ModelOutput | Exception, ModelCall]:
        """Answer a conversation.

        Raises:
            InvalidArgumentError: it has tools, pictures, or options that the fleet has not.
            EvalFleetError: what the service answered.
        """
        if tools:
            raise InvalidArgumentError(
                "models of the fleet do not call tools; evaluate without them", reason="TOOLS_NOT_OFFERED"
            )
        turns, sampling = messages.turns(input), messages.sampling(config)
        timeout = config.attempt_timeout or config.timeout or ANSWER_TIMEOUT_SECONDS
        answer = await in_thread(
            lambda: self._fleet.generation.generate(
                self.model_name,
                turns,
                sampling,
                samples=config.num_choices or 1,
                priority=self._priority,
                timeout_seconds=timeout,
            )
        )
        return messages.output(answer, self.model_name)

    def should_retry(self, ex: Exception) -> bool | RetryDecision:
        """Say what to do about an error: a full queue is a rate limit, an absent service passes, the rest is final."""
        if isinstance(ex, ResourceExhaustedError):
            return RetryDecision.rate_limit(retry_after=ex.retry_after_seconds)
        if isinstance(ex, (UnavailableError, DeadlineExceededError)):
            return RetryDecision.transient(retry_after=ex.retry_after_seconds)
        return RetryDecision.no()

    def retry_wait(self) -> wait_base:
        """Return how long to wait: as long as the service asks for, or else longer and longer."""
        return _AsAskedFor()

    def max_connections(self) -> int:
        """Return how many requests are sent at once by default; the service forms its batches from them."""
        return MAX_CONNECTIONS

    def connection_key(self) -> str:
        """Return what shares a bound on connections: all models of a service."""
        return self.base_url or "fleet"

    def close(self) -> None:
        """Close the connection."""
        self._fleet.close()


class _AsAskedFor(wait_base):
    def __init__(self) -> None:
        self._otherwise = wait_exponential_jitter(initial=_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS)

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        asked_for: float | None = getattr(error, "retry_after_seconds", None)
        return asked_for or self._otherwise(retry_state)
