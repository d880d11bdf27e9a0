"""Reads data sets from a Hugging Face hub; the library is imported when the first one is needed."""

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from services.evaluation.errors import INSTALL_HINT, DataNotFoundError, UnreadableDataError
from services.evaluation.source_specification import Hub

_LISTING_SECONDS = 60.0


class HuggingFaceHub:
    """The hub that HF_ENDPOINT names (huggingface.co by default), through ``huggingface_hub`` and its cache."""

    def __init__(self, cache_folder: Path | None = None) -> None:
        self._cache_folder = cache_folder
        self._lock = threading.Lock()
        self._listings: dict[Hub, tuple[float, tuple[str, ...] | DataNotFoundError]] = {}

    def list_files(self, hub: Hub) -> Sequence[str]:
        """Paths of all files of the repository at its revision.

        Raises:
            DataNotFoundError: there is no such repository or revision, or the hub does not answer.
            UnreadableDataError: the library is not installed.
        """
        # A family of tasks asks for the same listing dozens of times, and an unreachable hub takes long to say so.
        with self._lock:
            asked_at, answer = self._listings.get(hub, (-math.inf, None))
            if answer is None or time.monotonic() - asked_at > _LISTING_SECONDS:
                answer = self._list_files(hub)
                self._listings[hub] = (time.monotonic(), answer)
        if isinstance(answer, DataNotFoundError):
            raise answer
        return answer

    def _list_files(self, hub: Hub) -> tuple[str, ...] | DataNotFoundError:
        library = _library()
        try:
            files: list[str] = library.HfApi().list_repo_files(hub.dataset, repo_type="dataset", revision=hub.revision)
        except (library.errors.HfHubHTTPError, OSError, ValueError) as error:
            return _unreachable(hub, error)
        return tuple(files)

    def download(self, hub: Hub, name: str) -> Path:
        """A local copy of one file.

        Raises:
            DataNotFoundError: there is no such file, or the hub does not answer.
            UnreadableDataError: the library is not installed.
        """
        library = _library()
        try:
            path = library.hf_hub_download(
                hub.dataset, name, repo_type="dataset", revision=hub.revision, cache_dir=self._cache_folder
            )
        except (library.errors.HfHubHTTPError, OSError, ValueError) as error:
            raise _unreachable(hub, error) from error
        return Path(path)


def _library() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise UnreadableDataError(f"hub data sets need huggingface_hub: {INSTALL_HINT} ({error})") from error
    return huggingface_hub


def _unreachable(hub: Hub, error: Exception) -> DataNotFoundError:
    first_line = str(error).strip().partition("\n")[0]
    return DataNotFoundError(
        f"the hub data set {hub.dataset} at revision {hub.revision} cannot be fetched: {first_line}",
        metadata={"dataset": hub.dataset, "revision": hub.revision},
    )
