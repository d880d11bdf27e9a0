"""Checks of what containers run: a program that is there, out of the image of the release that holds it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploy.docker.image_contents import IMAGES, ON_DEMAND, TRITON_GPU
from k8s.verify.rendered import Problem, Rendered
from k8s.verify.workloads import is_there, program_of, workload_of

_OURS: Final = "evalfleet/"
_GPU_RESOURCE: Final = "nvidia.com/gpu"
_HELD: Final[Mapping[str, frozenset[str] | None]] = {each.name: each.kept_packages for each in (*IMAGES, *ON_DEMAND)}
"""Packages of ``services`` by the image that holds them; ``None``: all, and the command line."""


def check_programs(rendered: Rendered) -> Iterator[Problem]:
    """Each container of ours runs a program that is there, from the image of this release that holds it."""
    tags: dict[str, str] = {}
    for pod in rendered.pods:
        for container in pod.containers:
            for text in _problems(container):
                yield Problem(pod.resource, f"container {container['name']} {text}")
            if (name := _own_image(container)) is not None:
                tags[pod.resource] = container["image"].rpartition(f"{_OURS}{name}")[2]
    usual = max(tags.values(), key=[*tags.values()].count, default="")
    for resource, tag in tags.items():
        if tag.startswith(":") and usual.startswith(":") and tag != usual:
            yield Problem(resource, f"its image is of another release ({tag[1:]}) than most ({usual[1:]})")


def _problems(container: Mapping[str, Any]) -> Iterator[str]:
    told, image = program_of(container), _own_image(container)
    is_ours = workload_of(container) is not None
    words = [*container.get("command", ()), *container.get("args", ())]
    if "-m" in words and not (is_ours and is_there(container)):
        yield f"runs {told}, a module that is not there"
    elif image is not None and not is_ours:
        yield f"runs {told or 'what its image would'}, no program of ours, from an image of ours"
    elif is_ours and image is None:
        yield f"runs {told} from {container['image']}, no image of ours"
    if image is None:
        return
    if image not in _HELD:
        yield f"has the image {_OURS}{image}, which nobody builds"
    elif not _holds(image, told):
        yield f"runs {told} from {_OURS}{image}, which does not hold it"
    if image == TRITON_GPU.name and _GPU_RESOURCE not in container.get("resources", {}).get("limits", {}):
        yield f"has the image of GPUs and asks for none (limits.{_GPU_RESOURCE})"


def _own_image(container: Mapping[str, Any]) -> str | None:
    """The name of an image of ours, whatever registry it is in; ``None``: a stranger's."""
    path = str(container["image"]).partition("@")[0]
    before, separator, name = path.rpartition(_OURS)
    return name.partition(":")[0] if separator and (not before or before.endswith("/")) else None


def _holds(image: str, program: str) -> bool:
    packages = _HELD[image]
    return packages is None or (program.startswith("services.") and program.split(".")[1] in packages)
