"""Settings of every service that runs programs, read from the environment."""

from pydantic import Field

from services.runtime.settings import ServiceSettings
from services.sandbox.contract import SandboxLimits


class SandboxSettings(ServiceSettings):
    """What programs may use."""

    sandbox_programs: int | None = Field(
        None, ge=1, le=256, description="Programs that run at once; absent: one for each core."
    )
    sandbox_memory_bytes: int = Field(
        512 << 20, ge=64 << 20, description="Memory of one program with all its processes and files, in bytes."
    )
    sandbox_files_bytes: int = Field(
        32 << 20, ge=1 << 20, description="Files that one program may write, in bytes; they lie in memory."
    )
    sandbox_processes: int = Field(
        32, ge=2, le=1024, description="Processes and threads that one program may have at once."
    )

    @property
    def sandbox_limits(self) -> SandboxLimits:
        """What one program may use."""
        return SandboxLimits(
            memory_bytes=self.sandbox_memory_bytes,
            files_bytes=self.sandbox_files_bytes,
            processes=self.sandbox_processes,
        )
