"""``python -m services.standalone``: the same as ``evalfleet up``."""

from services.standalone.command import up

if __name__ == "__main__":
    up(prog_name="python -m services.standalone")
