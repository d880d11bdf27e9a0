"""Reads data sets from a Hugging Face hub; the library is imported when the first one is needed."""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from services.evaluation.errors import INSTALL_HINT, DataNotFoundError, UnreadableDataError
from services.evaluation.source_specification import Hub

_LISTING_SECONDS = 60.0
_TIMEOUT_SECONDS = 10.0


class HuggingFaceHub:
    """The hub that HF_ENDPOINT names (huggingface.co by default), through ``huggingface_hub`` and its cache."""

    def __init__(self, cache_folder: Path | None = None, *, endpoint: str | None = None) -> None:
        self._cache_folder = cache_folder
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._listings: dict[Hub, tuple[float, _Listing | DataNotFoundError]] = {}

    def list_files(self, hub: Hub) -> Sequence[str]:
        """Paths of all files of the repository at its revision.

        Raises:
            DataNotFoundError: there is no such repository or revision, or the hub does not answer.
            UnreadableDataError: the library is not installed.
        """
        return self._listing(hub).files

    def download(self, hub: Hub, name: str) -> Path:
        """A local copy of one file, at the commit that the files were listed at.

        Raises:
            DataNotFoundError: there is no such file, or the hub does not answer.
            UnreadableDataError: the library is not installed.
        """
        commit = self._listing(hub).commit
        library = _library()
        try:
            path = library.hf_hub_download(
                hub.dataset,
                name,
                repo_type="dataset",
                revision=commit,
                cache_dir=self._cache_folder,
                endpoint=self._endpoint,
            )
        except _failures(library) as error:
            raise _unreachable(hub, error) from error
        return Path(path)

    def _listing(self, hub: Hub) -> "_Listing":
        # A family of tasks asks for the same listing dozens of times, and an unreachable hub takes long to say so.
        with self._lock:
            asked_at, answer = self._listings.get(hub, (-math.inf, None))
            if answer is None or time.monotonic() - asked_at > _LISTING_SECONDS:
                answer = self._ask(hub)
                self._listings[hub] = (time.monotonic(), answer)
        if isinstance(answer, DataNotFoundError):
            raise answer
        return answer

    def _ask(self, hub: Hub) -> "_Listing | DataNotFoundError":
        library = _library()
        try:
            # One request, where list_repo_files goes through pages and retries each for half a minute.
            found = library.HfApi(endpoint=self._endpoint).dataset_info(
                hub.dataset, revision=hub.revision, timeout=_TIMEOUT_SECONDS
            )
        except _failures(library) as error:
            return _unreachable(hub, error)
        return _Listing(found.sha or hub.revision, tuple(each.rfilename for each in found.siblings or ()))


@dataclass(frozen=True, slots=True)
class _Listing:
    """The files of a data set and the commit that has them."""

    commit: str
    files: tuple[str, ...]


def _library() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise UnreadableDataError(f"hub data sets need huggingface_hub: {INSTALL_HINT} ({error})") from error
    return huggingface_hub


def _failures(library: ModuleType) -> tuple[type[Exception], ...]:
    """Everything the library says it raises; its classes share no base, and the HTTP library's are among them."""
    declared = vars(library.errors).values()
    classes = [each for each in declared if isinstance(each, type) and issubclass(each, Exception)]
    return (*classes, OSError, ValueError)


def _unreachable(hub: Hub, error: Exception) -> DataNotFoundError:
    first_line = (str(error).strip() or type(error).__name__).partition("\n")[0]
    return DataNotFoundError(
        f"the hub data set {hub.dataset} at revision {hub.revision} cannot be fetched: {first_line}",
        metadata={"dataset": hub.dataset, "revision": hub.revision},
    )
