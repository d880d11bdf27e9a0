"""Contract fake of the ensemble and the BLS model of TensorRT-LLM's Triton backend: tensors and traps, no TensorRT.

Reproduced from its public configurations and preprocessing: tensors with a batch dimension (decoupled: without one),
one response a request; the prompt's tokens before the answer's unless ``exclude_input_in_output`` is true; greedy
unless ``top_k`` or ``top_p`` says otherwise, and seed 0 where none is given; stop words matched on token ids and left
in the text; no finish reason; counts only where they are asked for; ``generation_logits`` a placeholder unless they are
asked for.
"""

import json
import random
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer


class TritonPythonModel:
    """What Triton's Python backend looks for in model.py."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer that the configuration names."""
        config = json.loads(args["model_config"])
        self._is_decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        told = config["parameters"]
        self._tokenizer = Tokenizer.from_file(told["tokenizer_file"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Answer the requests one by one, as a batch or, where the model is decoupled, each over its own sender."""
        answers = [self._answer(request) for request in requests]
        if not self._is_decoupled:
            return answers
        for request, answer in zip(requests, answers, strict=True):
            request.get_response_sender().send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None

    def _answer(self, request: Any) -> Any:
        def asked(name: str, default: Any = None) -> Any:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            return default if tensor is None else tensor.as_numpy().ravel()[0]

        prompt_ids = self._tokenizer.encode(asked("text_input").decode()).ids
        answer_ids = list(reversed(prompt_ids[1:]))
        if asked("top_k", 0) != 1 and (asked("top_k", 0) > 1 or asked("top_p", 0.0) > 0):
            random.Random(int(asked("seed", 0))).shuffle(answer_ids)
        answer_ids = self._stopped(answer_ids[: int(asked("max_tokens"))], request)
        shown = answer_ids if asked("exclude_input_in_output", False) else prompt_ids + answer_ids
        outputs = [self._tensor("text_output", [[self._tokenizer.decode(shown).encode()]], np.object_)]
        if asked("return_num_input_tokens", False):
            outputs.append(self._tensor("num_input_tokens", [[len(prompt_ids)]], np.int32))
        if asked("return_num_output_tokens", False):
            outputs.append(self._tensor("num_output_tokens", [[len(answer_ids)]], np.int32))
        logits = [(token * 7919 % 1000) / 100 for token in range(self._tokenizer.get_vocab_size())]
        shown_logits = logits if asked("return_generation_logits", False) else [0.0]
        outputs.append(self._tensor("generation_logits", [[[shown_logits]]], np.float32))
        return pb_utils.InferenceResponse(outputs)

    def _stopped(self, answer_ids: list[int], request: Any) -> list[int]:
        tensor = pb_utils.get_input_tensor_by_name(request, "stop_words")
        words = [] if tensor is None else [each.decode() for each in tensor.as_numpy().ravel()]
        stops = [self._tokenizer.encode(word, add_special_tokens=False).ids for word in words]
        for end in range(1, len(answer_ids) + 1):
            if any(answer_ids[max(0, end - len(stop)) : end] == stop for stop in stops):
                return answer_ids[:end]
        return answer_ids

    @staticmethod
    def _tensor(name: str, values: Any, dtype: Any) -> Any:
        return pb_utils.Tensor(name, np.asarray(values, dtype=dtype))
