from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.inference.platform_checks import (
    PlatformFacts,
    TritonUnavailableError,
    check_platform,
    gather_platform_facts,
    installed_triton,
)

GOOD = PlatformFacts(
    system="Linux", machine="x86_64", glibc=(2, 36), python="3.11", python_library=Path("/usr/lib"),
    triton_folder=Path("/site/pytriton/tritonserver"), native_folder=Path("/site/nvidia_pytriton.libs"),
    has_stub=True, numpy="1.26.4",
)  # fmt: skip


def test_a_fitting_machine_names_tritons_parts() -> None:
    files = check_platform(GOOD)
    assert files.binary == Path("/site/pytriton/tritonserver/bin/tritonserver")
    assert files.stub == Path("/site/pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub")
    assert files.libraries == (Path("/usr/lib"), Path("/site/nvidia_pytriton.libs"))


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        ({"system": "Darwin", "machine": "arm64"}, "TRITON_PLATFORM_UNSUPPORTED", "arm64 Darwin"),
        ({"machine": "aarch64"}, "TRITON_PLATFORM_UNSUPPORTED", "x86-64 Linux"),
        ({"glibc": (2, 31)}, "GLIBC_TOO_OLD", "glibc 2.31: use Debian 12"),
        ({"glibc": (2, 9)}, "GLIBC_TOO_OLD", "2.9"),
        ({"glibc": None}, "GLIBC_TOO_OLD", "another C library"),
        ({"triton_folder": None}, "TRITON_NOT_INSTALLED", "pip install --no-deps nvidia-pytriton==0.7.0"),
        ({"has_stub": False, "python": "3.14"}, "TRITON_STUB_MISSING", "Python 3.14"),
        ({"python_library": None}, "PYTHON_LIBRARY_MISSING", "apt-get install libpython3.11"),
        ({"numpy": "2.4.0"}, "NUMPY_TOO_NEW", "numpy<2"),
        ({"numpy": ""}, "NUMPY_TOO_NEW", "installed is none"),
    ],
)
def test_what_is_missing_is_said_with_the_way_out(change: dict[str, Any], reason: str, says: str) -> None:
    with pytest.raises(TritonUnavailableError) as caught:
        check_platform(replace(GOOD, **change))
    assert caught.value.reason == reason
    assert says in caught.value.message
    assert "--inference local" in caught.value.message
    assert "\n" not in caught.value.message


def test_this_machine_can_be_looked_at() -> None:
    facts = gather_platform_facts()
    assert facts.python.count(".") == 1
    assert facts.system


def test_an_installed_triton_is_taken_as_it_is(tmp_path: Path) -> None:
    backend = tmp_path / "backends/python"
    backend.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tritonserver").touch()
    with pytest.raises(TritonUnavailableError, match="triton_python_backend_stub; name the folder"):
        installed_triton(tmp_path)
    (backend / "triton_python_backend_stub").touch()
    files = installed_triton(tmp_path)
    assert (files.binary, files.backend) == (tmp_path / "bin/tritonserver", backend)
    # The image that it belongs to has set up where its libraries are.
    assert files.libraries == ()
