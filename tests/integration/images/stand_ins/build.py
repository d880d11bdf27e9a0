"""``python -m tests.integration.images.stand_ins.build``: builds them with buildah after ``make images``, as root."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
TAGS: Final[Mapping[str, str]] = {
    name: f"localhost/evalfleet-stand-in/{name}:{version}"
    for name, version in {"postgres": "15", "valkey": "7.0", "prometheus": "2.42"}.items()
}


def main() -> None:
    """Build each on the base of our own images."""
    isolation = ("--isolation=oci", "--runtime=runc", "--network=host", "--pull=never", "--layers")
    for name, tag in TAGS.items():
        command = ("buildah", "build", *isolation, "--volume=/etc/resolv.conf:/etc/resolv.conf:ro")
        subprocess.run((*command, f"--target={name}", f"--tag={tag}", str(FOLDER)), check=True)


if __name__ == "__main__":
    main()
