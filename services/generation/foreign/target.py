"""Which model of which foreign Triton, and which Tritons may be asked at all."""

import enum
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from services.generation.foreign.errors import ForeignTargetRefusedError

_TARGET = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}))\:([0-9]{1,5})")
_DIGEST_VERSION = "evalfleet/foreign-model/1"

TARGET_RULE = "host:port, e.g. llm.example.org:8001 or [::1]:8001"


class ForeignProtocol(enum.Enum):
    """Whose tensors a foreign model takes and gives."""

    VLLM_BACKEND = "vllm_backend"
    TENSORRT_LLM = "tensorrt_llm"


@dataclass(frozen=True, slots=True)
class ForeignTarget:
    """One model of a foreign Triton.

    Attributes:
        target: ``host:port`` of its gRPC service, in lower case.
        model_name: its name there.
        protocol: how it is asked; also the name of its engine here.
        model_version: its version there; empty: the one that Triton chooses.
        revision: what its deployer calls its content; empty if nobody told.
    """

    target: str
    model_name: str
    protocol: ForeignProtocol
    model_version: str = ""
    revision: str = ""

    @property
    def engine(self) -> str:
        """What computes the answers, as models and price tables name it."""
        return self.protocol.value

    def to_json(self) -> str:
        """Write it for the registry."""
        return json.dumps(asdict(self) | {"protocol": self.protocol.value}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ForeignTarget":
        """Read what ``to_json`` wrote."""
        values = json.loads(text)
        return cls(**values | {"protocol": ForeignProtocol(values["protocol"])})

    def digest(self, tokenizer_digest: str) -> str:
        """Return what stands for the content: all that is known of it, which without a revision is not its weights."""
        return hashlib.sha256(f"{_DIGEST_VERSION}\n{self.to_json()}\n{tokenizer_digest}".encode()).hexdigest()


def is_target(text: str) -> bool:
    """Return whether a text is ``host:port``: nothing else, because gRPC would also take sockets and name servers."""
    found = _TARGET.fullmatch(text)
    return found is not None and 1 <= int(found[2]) <= 65535


class AllowedTargets:
    """The Tritons that may be asked.

    Args:
        targets: ``host:port`` of each.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self._targets = frozenset(each.casefold() for each in targets)

    def check(self, target: str) -> None:
        """Let a target pass.

        Raises:
            ForeignTargetRefusedError: it is not on the list.
        """
        if target.casefold() not in self._targets:
            raise ForeignTargetRefusedError(target)
