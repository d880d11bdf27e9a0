"""Settings of the code runner, read from the environment."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from services.sandbox.settings import SandboxSettings


class CodeRunnerSettings(SandboxSettings):
    """What contains programs, and how many the code runner takes on."""

    port: int = Field(8106, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    sandbox: Literal["bubblewrap", "gvisor"] = Field(
        "bubblewrap",
        description="What contains programs: bubblewrap, on a machine; gvisor, in a container that runs under it, one "
        "program at a time.",
    )
    sandbox_root: Path = Field(
        Path("/opt/evalfleet/sandbox"),
        description="With gvisor: folder of Python for programs, in which only tmp can be written to; "
        "`python -m services.sandbox.runtime_root FOLDER` makes it.",
    )
    waiting_programs: int = Field(
        2,
        ge=0,
        description="Programs that wait for each that runs; callers take turns. More are told when to come back.",
    )
    max_concurrent_calls: int = Field(
        1024,
        ge=1,
        description="Calls handled at once, per method; of programs, those that run and wait bound it before.",
    )

    @model_validator(mode="after")
    def _one_program_in_a_container(self) -> Self:
        if self.sandbox == "gvisor" and self.sandbox_programs not in (None, 1):
            raise ValueError("with EVALFLEET_SANDBOX=gvisor one program runs at a time; start more containers")
        return self
