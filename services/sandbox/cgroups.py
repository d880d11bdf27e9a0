"""Control groups that cap a sandbox's memory, processes and CPU, and count it, in both versions of the interface."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.sandbox.contract import SandboxLimits

_MOUNT = Path("/sys/fs/cgroup")
_CPU_PERIOD_MICROSECONDS = 20_000
_CAPS = ("memory", "pids", "cpu")
_TIMES_1 = "cpuacct.usage"
_FILES_1 = {
    "memory": "memory.limit_in_bytes",
    "pids": "cgroup.procs",
    "cpu": "cpu.cfs_quota_us",
    "cpuacct": _TIMES_1,
}


@dataclass(frozen=True, slots=True)
class LimitHits:
    """How often the processes of a group were refused: killed for want of memory, or not allowed another process."""

    memory: int = 0
    processes: int = 0


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """The folders of one sandbox's group, one a hierarchy; none where no group can be made.

    Attributes:
        memory, processes, cpu: the folder that caps it, if any.
        times: the folder that counts the CPU time of all that ever ran in it, if any.
    """

    memory: Path | None = None
    processes: Path | None = None
    cpu: Path | None = None
    times: Path | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """Each folder that a process is to be put into, once."""
        folders = (self.memory, self.processes, self.cpu, self.times)
        return tuple(dict.fromkeys(each for each in folders if each is not None))

    def prefer(self) -> None:
        """Let it count for a whole process from now on, where it shares a core with sandboxes that only start."""
        _weigh(self.cpu, shares=1024, weight=100)

    def hits(self) -> LimitHits:
        """Read how often a limit was hit since the group was made."""
        memory = processes = 0
        if self.memory is not None:
            memory = max(_counted(self.memory / name, "oom_kill") for name in ("memory.oom_control", "memory.events"))
        if self.processes is not None:
            processes = _counted(self.processes / "pids.events", "max")
        return LimitHits(memory, processes)

    def ran_seconds(self) -> float | None:
        """Read the CPU time of all that ever ran in it, what has ended and was collected by nobody included.

        Returns:
            ``None`` where no group counts it.
        """
        if self.times is None:
            return None
        nanoseconds = int(_read(self.times / _TIMES_1) or 0)
        # What started in it has run: nothing counted means that nobody counts.
        return (nanoseconds / 1e9 or _counted(self.times / "cpu.stat", "usage_usec") / 1e6) or None

    def remove(self) -> None:
        """Remove the folders; those that still hold a dying process stay."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


class ControlGroups:
    """Makes groups below one folder a hierarchy, and removes these at the end."""

    def __init__(self, name: str, mount: Path = _MOUNT, own_groups: str | None = None) -> None:
        own = own_groups if own_groups is not None else _read(Path("/proc/self/cgroup"))
        self._parents: dict[str, Path] = {}
        for controller in (*_CAPS, "cpuacct"):
            for parent in _candidates(controller, mount, own):
                folder = parent / name
                if _usable(folder, controller):
                    self._parents[controller] = folder
                    break

    @property
    def controllers(self) -> tuple[str, ...]:
        """What can be capped here: of memory, pids, cpu."""
        return tuple(each for each in _CAPS if each in self._parents)

    def weigh(self, programs: int) -> None:
        """Let all sandboxes together count for so many processes where others want the CPU too."""
        _weigh(self._parents.get("cpu"), shares=1024 * programs, weight=min(10_000, 100 * programs))

    def make(self, name: str, limits: SandboxLimits) -> ControlGroup:
        """Make a group with these limits and one core of CPU.

        Raises:
            OSError: a limit cannot be set.
        """
        folders = {controller: parent / name for controller, parent in self._parents.items()}
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        if "memory" in folders:
            _set(folders["memory"], ("memory.limit_in_bytes", "memory.max"), str(limits.memory_bytes))
            for swap, value in (("memory.memsw.limit_in_bytes", str(limits.memory_bytes)), ("memory.swap.max", "0")):
                if (folders["memory"] / swap).exists():
                    with contextlib.suppress(OSError):
                        (folders["memory"] / swap).write_text(value)
        if "pids" in folders:
            # bubblewrap itself is two processes.
            _set(folders["pids"], ("pids.max",), str(limits.processes + 2))
        if "cpu" in folders:
            _set_one_core(folders["cpu"])
            # Until it has a program: to start ahead must not slow those that run.
            _weigh(folders["cpu"], shares=64, weight=6)
        # Version 1 has a hierarchy for that; version 2 counts in every group.
        times = folders.get("cpuacct", folders.get("cpu", folders.get("memory")))
        return ControlGroup(folders.get("memory"), folders.get("pids"), folders.get("cpu"), times)

    def close(self) -> None:
        """Remove what is left."""
        for parent in self._parents.values():
            with contextlib.suppress(OSError):
                for child in parent.iterdir():
                    # One that still holds a dying process keeps no other.
                    with contextlib.suppress(OSError):
                        child.rmdir()
                parent.rmdir()


def _candidates(controller: str, mount: Path, own_groups: str) -> list[Path]:
    """Return where a group with a controller may be made: version 1's hierarchy, then version 2's own group."""
    found = []
    for line in own_groups.splitlines():
        _, names, path = line.split(":", 2)
        # A group of version 1 is made beside the service's own, whose cap the sandboxes would share.
        if controller in names.split(","):
            found += [mount / controller / Path(path).relative_to("/"), mount / controller]
        elif names == "" and controller != "cpuacct":  # version 2 counts in every group
            found += [mount / Path(path).relative_to("/"), mount / "unified" / Path(path).relative_to("/")]
    return found


def _usable(folder: Path, controller: str) -> bool:
    """Make a folder and say whether its children can be capped."""
    try:
        if not folder.parent.is_dir() or not os.access(folder.parent, os.W_OK):
            return False
        folder.mkdir(exist_ok=True)
        if (folder / "cgroup.subtree_control").exists():
            if _holds_processes(folder.parent):
                folder.rmdir()
                return False
            for parent in (folder.parent, folder):
                if controller not in (parent / "cgroup.subtree_control").read_text().split():
                    (parent / "cgroup.subtree_control").write_text(f"+{controller}")
            return True
        return (folder / _FILES_1[controller]).exists()
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return False


def _holds_processes(group: Path) -> bool:
    """Whether a group of version 2 has processes of its own, and so may not cap its children; the root may."""
    return (group / "cgroup.type").exists() and bool(_read(group / "cgroup.procs").strip())


def _set(folder: Path, names: Sequence[str], value: str) -> None:
    for name in names:
        if (folder / name).exists():
            (folder / name).write_text(value)
            return
    raise FileNotFoundError(f"{folder} has none of {', '.join(names)}")


def _weigh(folder: Path | None, *, shares: int, weight: int) -> None:
    """Set how much CPU a group has beside others, in whichever version of the interface."""
    for name, value in (("cpu.shares", shares), ("cpu.weight", weight)):
        if folder is not None and (folder / name).exists():
            with contextlib.suppress(OSError):
                (folder / name).write_text(str(value))


def _set_one_core(folder: Path) -> None:
    if (folder / "cpu.max").exists():
        (folder / "cpu.max").write_text(f"{_CPU_PERIOD_MICROSECONDS} {_CPU_PERIOD_MICROSECONDS}")
    else:
        (folder / "cpu.cfs_period_us").write_text(str(_CPU_PERIOD_MICROSECONDS))
        (folder / "cpu.cfs_quota_us").write_text(str(_CPU_PERIOD_MICROSECONDS))


def _counted(file: Path, name: str) -> int:
    for line in _read(file).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
