"""The command line that starts a sandbox: the groups that cap it, an unprivileged user, bubblewrap, Python."""

import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.sandbox.contract import SandboxLimits
from services.sandbox.errors import SandboxUnavailableError
from services.sandbox.runtime_root import DEVICES, RuntimeRoot

HOW_TO_INSTALL = (
    "install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap) and let unprivileged users make namespaces "
    "(sysctl user.max_user_namespaces above 0; in a container a seccomp profile that allows unshare)"
)
# A user that owns nothing, as systemd's «nobody» but with no other service behind it.
_UNPRIVILEGED_USER = 64_909
_USER_INSIDE = "1000"


@dataclass(frozen=True, slots=True)
class SandboxCommand:
    """Builds the command line of each sandbox.

    Attributes:
        bubblewrap: path of ``bwrap``.
        setpriv: path of ``setpriv``, which gives up root's rights; ``None`` where there are none to give up.
        root: what is seen inside.
        limits: what a program may use.
    """

    bubblewrap: str
    setpriv: str | None
    root: RuntimeRoot
    limits: SandboxLimits

    @property
    def remedy(self) -> str:
        """What to do where it does not start."""
        return HOW_TO_INSTALL

    @property
    def others_of_user(self) -> int:
        """None: the kernel counts those in the sandbox's user namespace."""
        return 0

    def arguments(self, groups: Sequence[Path], filter_fd: int, jobs_fd: int, reports_fd: int) -> list[str]:
        """Return the command: joins the groups, then becomes bubblewrap, which becomes the runner inside."""
        command = [*self._unprivileged(), self.bubblewrap, *self._isolation(), "--seccomp", str(filter_fd), "--"]
        command += self.root.command(jobs_fd, reports_fd)
        if not groups:
            return command
        joins = [f"echo 0 > {shlex.quote(str(group / 'cgroup.procs'))}" for group in groups]
        return ["/bin/sh", "-c", " && ".join([*joins, 'exec "$@"']), "sh", *command]

    def _unprivileged(self) -> list[str]:
        if self.setpriv is None:
            return []
        user = str(_UNPRIVILEGED_USER)
        return [self.setpriv, "--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs"]

    def _isolation(self) -> list[str]:
        return [
            *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup"),
            *("--uid", _USER_INSIDE, "--gid", _USER_INSIDE, "--cap-drop", "ALL", "--hostname", "sandbox"),
            *("--die-with-parent", "--new-session", "--clearenv"),
            *(part for name, value in self.root.environment.items() for part in ("--setenv", name, value)),
            *("--ro-bind", str(self.root.folder), "/", "--proc", "/proc"),
            *(part for device in DEVICES for part in ("--dev-bind", f"/dev/{device}", f"/dev/{device}")),
            *("--size", str(self.limits.files_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"),
        ]


def find_tools() -> tuple[str, str | None]:
    """Return the paths of bubblewrap, and of setpriv where this process is root's.

    Raises:
        SandboxUnavailableError: one is not installed.
    """
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise SandboxUnavailableError(f"there is no bwrap to run programs in: {HOW_TO_INSTALL}")
    if os.geteuid() != 0:
        return bubblewrap, None
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise SandboxUnavailableError(
            "this service is root's, and there is no setpriv (package util-linux) to run as another"
        )
    return bubblewrap, setpriv
