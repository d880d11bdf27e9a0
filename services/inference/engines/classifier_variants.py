"""A sequence classifier computed by ONNX Runtime or OpenVINO, in float32 or with 8-bit weights and activations.

The loaded PyTorch model is converted when the engine starts, which takes seconds; nothing converted is kept.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from services.inference.contract import SAMPLES_FILE, ClassifierArguments, VariantName
from services.inference.engines.classifier_models import LoadedClassifier, ProbabilityModel
from services.inference.failures import InferenceFailure

_OPSET: Final = 18
_NAMES: Final = ("input_ids", "attention_mask")
_EXAMPLE_TOKENS: Final = 16


class OnnxRuntimeClassifier:
    """Runs an ONNX graph.

    Args:
        file: the graph.
        threads: CPU threads.
    """

    def __init__(self, file: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that wait give up their core: engines share them (docs/decisions/0011).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return class probabilities."""
        given = dict(zip(_NAMES, (input_ids.numpy(), attention_mask.numpy()), strict=True))
        return torch.from_numpy(self._session.run(None, given)[0])


class OpenVinoClassifier:
    """Runs an OpenVINO model.

    Args:
        model: converted, not compiled.
        threads: CPU threads.
    """

    def __init__(self, model: Any, threads: int) -> None:
        import openvino

        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        self._compiled: Any = openvino.Core().compile_model(model, "CPU", settings)

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return class probabilities."""
        answer = self._compiled((input_ids.numpy(), attention_mask.numpy()))
        return torch.from_numpy(answer[0].copy())


def converted(loaded: LoadedClassifier, arguments: ClassifierArguments) -> ProbabilityModel:
    """Return the classifier as another runtime computes it.

    Args:
        loaded: in memory, on the CPU.
        arguments: name the variant, any but ``torch``, and the head, whose folder may hold ``samples.txt``: texts like
            those that it will read, one a line, from which OpenVINO's 8-bit ranges are taken.

    Raises:
        InferenceFailure: VARIANT_NOT_INSTALLED, or VARIANT_NOT_POSSIBLE for this model or device.
    """
    variant = arguments.variant
    if loaded.device.type != "cpu":
        raise _refuse(variant, "VARIANT_NOT_POSSIBLE", f"it runs on CPUs, the model is on {loaded.device}")
    samples = Path(arguments.head or arguments.model) / SAMPLES_FILE
    try:
        return _CONVERTERS[variant](loaded, samples)
    except ImportError as error:
        raise _refuse(
            variant,
            "VARIANT_NOT_INSTALLED",
            f"the package {error.name} is missing; pip install 'evalfleet-services[guards]'",
        ) from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise _refuse(variant, "VARIANT_NOT_POSSIBLE", f"the model cannot be converted ({problem})") from error


def _onnx(loaded: LoadedClassifier, samples: Path) -> ProbabilityModel:
    with tempfile.TemporaryDirectory(prefix="evalfleet-onnx-") as folder:
        return OnnxRuntimeClassifier(_exported(loaded, Path(folder)), torch.get_num_threads())


def _onnx_int8(loaded: LoadedClassifier, samples: Path) -> ProbabilityModel:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(prefix="evalfleet-onnx-") as folder:
        quantized = Path(folder) / "int8.onnx"
        quantize_dynamic(
            _exported(loaded, Path(folder)),
            quantized,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
            extra_options={"MatMulConstBOnly": True},
        )
        return OnnxRuntimeClassifier(quantized, torch.get_num_threads())


def _exported(loaded: LoadedClassifier, folder: Path) -> Path:
    import onnx  # noqa: F401 - the exporter needs it at its very end only

    file = folder / "float32.onnx"
    axes: Mapping[str, Any] = {name: {0: "texts", 1: "tokens"} for name in _NAMES}
    with warnings.catch_warnings():
        # torch's newer exporter needs one package more and is no better at encoders.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            _module(loaded),
            _example(),
            str(file),
            input_names=list(_NAMES),
            output_names=["probabilities"],
            dynamic_axes={**axes, "probabilities": {0: "texts"}},
            opset_version=_OPSET,
            dynamo=False,
        )
    return file


def _openvino(loaded: LoadedClassifier, samples: Path) -> ProbabilityModel:
    return OpenVinoClassifier(_openvino_model(loaded), torch.get_num_threads())


def _openvino_int8(loaded: LoadedClassifier, samples: Path) -> ProbabilityModel:
    import nncf

    def tokens(text: str) -> tuple[Any, Any]:
        read = loaded.tokenizer(text, truncation=True, max_length=loaded.max_tokens, return_tensors="np")
        return read["input_ids"], read["attention_mask"]

    texts = [line for line in samples.read_text(encoding="utf-8").split("\n") if line.strip()]
    quantized = nncf.quantize(
        _openvino_model(loaded),
        nncf.Dataset(texts, tokens),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(texts),
    )
    return OpenVinoClassifier(quantized, torch.get_num_threads())


def _openvino_model(loaded: LoadedClassifier) -> Any:
    import openvino

    return openvino.convert_model(_module(loaded), example_input=_example())


def _module(loaded: LoadedClassifier) -> torch.nn.Module:
    if not isinstance(loaded.probabilities, torch.nn.Module):
        raise TypeError(f"{type(loaded.probabilities).__name__} is no PyTorch module")
    return loaded.probabilities


def _example() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.ones((2, _EXAMPLE_TOKENS), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, _EXAMPLE_TOKENS // 2 :] = 0
    return ids, mask


def _refuse(variant: VariantName, reason: str, problem: str) -> InferenceFailure:
    return InferenceFailure(
        f"the classifier cannot be computed by {variant}: {problem}",
        reason=reason,
        code="FAILED_PRECONDITION",
        metadata={"variant": variant},
    )


_CONVERTERS: Final[Mapping[VariantName, Callable[[LoadedClassifier, Path], ProbabilityModel]]] = {
    "onnxruntime": _onnx,
    "onnxruntime-int8": _onnx_int8,
    "openvino": _openvino,
    "openvino-int8": _openvino_int8,
}
