"""The guards that this service can run: the embedded one, or a user's Hugging Face sequence classifier."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.inference.checkpoints import CONTENT_PATTERNS, content_digest, inspect_checkpoint, read_json
from services.inference.contract import SAMPLES_FILE, ClassifierArguments, DtypeName, VariantName
from services.inference.errors import as_fleet_errors
from services.inference.repository import classifier_labels
from services.safety.catalogue import COLLECTION
from services.safety.classifier_guard import TEMPLATE
from services.safety.digests import json_digest
from services.safety.encoder import find_encoder
from services.safety.errors import GuardFileError
from services.safety.guard_file import GuardFile, check_labels, read_guard_file
from services.safety.judgement import Aspect, GuardDescription, GuardReference

EMBEDDED_FOLDER: Final = Path(__file__).with_name("guards") / "minilm_hazard"
GUARD_FILE: Final = "guard.yaml"
HEAD_FILE: Final = "head.json"
ENGINE: Final = "transformers-sequence-classifier"
_DECIDING: Final = (*CONTENT_PATTERNS, SAMPLES_FILE)
"""Files that decide what a guard answers; the samples set the ranges of 8-bit variants."""


@dataclass(frozen=True, slots=True)
class GuardModel:
    """A guard and what the inference host needs to run it.

    Attributes:
        about: what it is.
        file: what its labels mean.
        labels: of the model, in the order of its probabilities.
        arguments: for the classifier engine.
        model_name: in the inference host. It holds a part of the digest, because a host keeps what it has under a name.
    """

    about: GuardDescription
    file: GuardFile
    labels: tuple[str, ...]
    arguments: ClassifierArguments
    model_name: str


def embedded_guard(
    encoder: Path | None,
    dtype: DtypeName,
    *,
    folder: Path = EMBEDDED_FOLDER,
    variant: VariantName = "torch",
) -> GuardModel:
    """Return the guard that comes with the service. Reads 90 MB of weights: call it outside the event loop.

    Args:
        encoder: folder of its encoder; None looks for it.
        dtype: number type to compute in.
        folder: its head, adapter and guard.yaml.
        variant: what computes it; whether it is promoted is not looked at.

    Raises:
        EncoderError: the encoder is missing or another one.
    """
    with as_fleet_errors():
        head = read_json(folder / HEAD_FILE)
    base = find_encoder(encoder, head["encoder_sha256"]).resolve()
    file = read_guard_file(folder / GUARD_FILE)
    arguments = ClassifierArguments(
        model=str(base),
        head=str(folder.resolve()),
        dtype=dtype,
        window_tokens=file.window_tokens,
        variant=variant,
    )
    return _guard_model(folder / GUARD_FILE, file, arguments, max_tokens=int(head["max_tokens"]))


def checkpoint_guard(checkpoint: Path, guard_file: Path | None, dtype: DtypeName) -> GuardModel:
    """Return a guard that is any sequence-classification checkpoint. Reads all its weights.

    Args:
        checkpoint: its folder.
        guard_file: what its labels mean; None looks for guard.yaml inside the folder.
        dtype: number type to compute in.

    Raises:
        FleetError: the checkpoint or the guard file cannot be used.
    """
    described_by = guard_file or checkpoint / GUARD_FILE
    file = read_guard_file(described_by)
    with as_fleet_errors():
        context = inspect_checkpoint(checkpoint).context_tokens
    max_tokens = file.max_tokens or context
    if max_tokens is None or (context is not None and max_tokens > context):
        raise GuardFileError(
            f"{described_by}: max_tokens: must be given and at most what the checkpoint reads ({context or 'unknown'})",
            metadata={"path": str(described_by)},
        )
    arguments = ClassifierArguments(
        model=str(checkpoint.resolve()), dtype=dtype, max_model_len=max_tokens, window_tokens=file.window_tokens
    )
    return _guard_model(described_by, file, arguments, max_tokens=max_tokens)


def _guard_model(described_by: Path, file: GuardFile, arguments: ClassifierArguments, *, max_tokens: int) -> GuardModel:
    labels = classifier_labels(arguments)
    check_labels(described_by, file, labels)
    assert file.threshold is not None
    folders = [arguments.model] if arguments.head is None else [arguments.model, arguments.head]
    reference = GuardReference(
        name=f"{COLLECTION}/{file.name}",
        weights_digest=content_digest(*folders, patterns=_DECIDING),
        template_digest=json_digest(
            {
                "template": TEMPLATE,
                "max_tokens": max_tokens,
                "window_tokens": file.window_tokens,
                "max_windows": file.max_windows,
            }
        ),
        calibration_digest=json_digest(
            {
                "threshold": file.threshold,
                "special_tokens": file.special_tokens,
                "most_unknown": file.most_unknown,
                "later_windows": file.later_windows.model_dump(),
                "taxonomy": [file.taxonomy, file.taxonomy_version],
                "labels": [[label, file.meaning(label)] for label in labels],
                **({"scripts": file.scripts.model_dump(mode="json")} if file.scripts else {}),
            }
        ),
        engine=ENGINE if arguments.variant == "torch" else arguments.variant.removesuffix("-int8"),
        dtype="int8" if arguments.variant.endswith("-int8") else arguments.dtype,
    )
    about = GuardDescription(
        reference=reference,
        description=file.description,
        aspects=tuple(Aspect(each) for each in file.aspects),
        categories=tuple(file.category(code) for code in sorted(file.categories)),
        default_threshold=file.threshold,
        max_tokens=max_tokens,
    )
    content = json_digest(
        [reference.weights_digest, arguments.dtype, max_tokens, arguments.window_tokens, arguments.variant]
    )
    return GuardModel(about, file, labels, arguments, f"guard-{file.name}-{content[:12]}")
