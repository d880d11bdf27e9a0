"""Entry point of the `evalfleet` command; says what to install when its extra is absent."""

import os
import sys

_TRACEBACK_VARIABLE = "EVALFLEET_TRACEBACK"


def main() -> None:
    """Run the command line; exit code 0: done, 1: it failed, 2: wrong usage, 130: interrupted."""
    try:
        from evalfleet.cli.app import cli
    except ModuleNotFoundError as missing:
        if missing.name not in ("click", "rich"):
            raise
        sys.exit(f"Error: the command line needs {missing.name}: pip install 'evalfleet[cli]'")
    try:
        cli(prog_name="evalfleet")
    except Exception as error:
        # The last stop before the terminal: a person gets a line, not a traceback.
        if os.environ.get(_TRACEBACK_VARIABLE):
            raise
        name = type(error).__name__
        sys.exit(f"Error: unexpected {name}: {error}\nSet {_TRACEBACK_VARIABLE}=1 to see where it comes from.")


if __name__ == "__main__":
    main()
