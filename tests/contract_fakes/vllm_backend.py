"""Contract fake of Triton's vLLM backend: its tensors and traps as its public sources have them, without vLLM.

Reproduced: the prompt before the answer unless ``exclude_input_in_output`` is true; text ``N/A`` beside an error where
sampling parameters are bad; special tokens added to whatever text comes (so a rendered BOS is doubled, and counted);
token counts since the response before, one of them a tensor without dimensions; the word ``None`` while there is no
finish reason; log-probabilities as JSON by token id; errors with status codes inside the stream; cancellation asked
for between tokens. A prompt may ask for trouble: ``!unhealthy``, ``!abort``, ``!slow``, ``!silent``.
"""

import json
import math
import random
import threading
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

_FLAGS = (
    "stream",
    "exclude_input_in_output",
    "return_finish_reason",
    "return_num_input_tokens",
    "return_num_output_tokens",
    "return_logprobs",
)
_KNOWN_PARAMETERS = {"max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "logprobs", "ignore_eos"}
_LOGPROBS = {"logprobs", "logprob_token_ids"}
_MAX_LOGPROBS = 20


def _is_bad(parameters: dict[str, Any], known: set[str]) -> bool:
    return (
        not set(parameters) <= known
        or not parameters.get("temperature", 1.0) >= 0
        or not 0 < parameters.get("top_p", 1.0) <= 1
        or parameters.get("max_tokens", 16) < 1
        or parameters.get("logprobs", 0) > _MAX_LOGPROBS
    )


class TritonPythonModel:
    """What Triton's Python backend looks for in model.py."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer that the configuration names."""
        told = json.loads(args["model_config"])["parameters"]
        self._tokenizer = Tokenizer.from_file(told["tokenizer_file"]["string_value"])
        self._cancel_log = told["cancel_log"]["string_value"]
        # Newer versions of vLLM tell the log-probabilities of tokens that are named.
        is_new = told["is_new"]["string_value"] == "true"
        self._known = _KNOWN_PARAMETERS | ({"logprob_token_ids"} if is_new else set())

    def execute(self, requests: list[Any]) -> None:
        """Hand every request to a thread of its own, as the backend hands it to vLLM's event loop."""
        for request in requests:
            asked = {name: self._input(request, name) for name in ("text_input", "sampling_parameters", *_FLAGS)}
            sender = request.get_response_sender()
            threading.Thread(target=self._answer, args=(asked, sender), daemon=True).start()

    @staticmethod
    def _input(request: Any, name: str) -> Any:
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        return None if tensor is None else tensor.as_numpy()[0]

    def _answer(self, asked: dict[str, Any], sender: Any) -> None:
        try:
            prompt = asked["text_input"].decode()
            parameters = json.loads(asked["sampling_parameters"].decode())
            if "!unhealthy" in prompt:
                self._fail(sender, "Model is unavailable due to unhealthy vLLM engine", "UNAVAILABLE")
                return
            if _is_bad(parameters, self._known) or (asked["stream"] and not asked["exclude_input_in_output"]):
                raise ValueError("'NoneType' object has no attribute 'lora_name'")
            self._generate(asked, prompt, parameters, sender)
        except Exception as error:  # noqa: BLE001 - the backend answers so, whatever went wrong
            self._fail(sender, f"Error generating stream: {error}", None, text="N/A")

    def _generate(self, asked: dict[str, Any], prompt: str, parameters: dict[str, Any], sender: Any) -> None:
        prompt_ids = self._tokenizer.encode(prompt).ids
        answer_ids = list(reversed(prompt_ids[1:]))
        if parameters.get("temperature", 1.0) > 0:
            random.Random(parameters.get("seed")).shuffle(answer_ids)
        limit = parameters.get("max_tokens", 16)
        ends_by_itself = len(answer_ids) < limit
        answer_ids, sent = answer_ids[:limit], 0
        for count in range(1, len(answer_ids) + 1):
            if sender.is_cancelled():
                with open(self._cancel_log, "a") as log:
                    log.write(f"{count}\n")
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                return
            if "!slow" in prompt:
                time.sleep(0.05)
            text = self._tokenizer.decode(answer_ids[:count])
            stops = [end for stop in parameters.get("stop", []) if (end := text.find(stop)) >= 0]
            is_last = bool(stops) or count == len(answer_ids)
            text = text[: min(stops)] if stops else text
            reason = None if not is_last else "stop" if stops or ends_by_itself else "length"
            if "!abort" in prompt and is_last:
                reason = "abort"
            if asked["stream"]:
                self._send(asked, prompt_ids, text[sent:], 1, reason, parameters, sender, is_last=is_last)
                sent = len(text)
            elif is_last:
                shown = text if asked["exclude_input_in_output"] else prompt + text
                self._send(asked, prompt_ids, shown, count, reason, parameters, sender, is_last=True)
            if is_last:
                return

    def _send(
        self,
        asked: dict[str, Any],
        prompt_ids: list[int],
        text: str,
        tokens: int,
        reason: str | None,
        parameters: dict[str, Any],
        sender: Any,
        *,
        is_last: bool,
    ) -> None:
        outputs = [pb_utils.Tensor("text_output", np.asarray([text.encode()], dtype=np.object_))]
        if asked["return_finish_reason"]:
            outputs.append(pb_utils.Tensor("finish_reason", np.asarray([str(reason)], dtype=np.object_)))
        if asked["return_num_input_tokens"] and asked["text_input"] != b"!silent":
            outputs.append(pb_utils.Tensor("num_input_tokens", np.asarray(len(prompt_ids), dtype=np.uint32)))
        if asked["return_num_output_tokens"]:
            outputs.append(pb_utils.Tensor("num_output_tokens", np.asarray([tokens], dtype=np.uint32)))
        if asked["return_logprobs"]:
            said = json.dumps([self._logprobs(parameters)] if _LOGPROBS & set(parameters) else None)
            outputs.append(pb_utils.Tensor("logprobs", np.asarray([said.encode()], dtype=np.object_)))
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_last else 0
        sender.send(pb_utils.InferenceResponse(outputs), flags=flags)

    def _logprobs(self, parameters: dict[str, Any]) -> dict[int, dict[str, Any]]:
        logits = [(token * 7919 % 1000) / 100 for token in range(self._tokenizer.get_vocab_size())]
        normaliser = math.log(sum(map(math.exp, logits)))
        best = sorted(range(len(logits)), key=lambda token: -logits[token])
        told = parameters.get("logprob_token_ids") or best[: parameters["logprobs"]]
        return {
            token: {"logprob": logits[token] - normaliser, "rank": best.index(token) + 1, "decoded_token": ""}
            for token in (best[0], *told)
        }

    @staticmethod
    def _fail(sender: Any, message: str, code: str | None, text: str | None = None) -> None:
        error = pb_utils.TritonError(message, *([getattr(pb_utils.TritonError, code)] if code else []))
        outputs = [] if text is None else [pb_utils.Tensor("text_output", np.asarray([text.encode()], np.object_))]
        response = pb_utils.InferenceResponse(outputs, error=error)
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
