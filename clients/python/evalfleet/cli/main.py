"""Entry point of the `evalfleet` command; says what to install when its extra is absent."""

import os
import sys
from typing import NoReturn

_TRACEBACK_VARIABLE = "EVALFLEET_TRACEBACK"
_COMPLETE_VARIABLE = "_EVALFLEET_COMPLETE"  # as in evalfleet.cli.completion, which needs click


def main() -> None:
    """Run the command line; exit code 0: done, 1: it failed, 2: wrong usage, 130: interrupted."""
    if _COMPLETE_VARIABLE in os.environ:
        _complete()
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


def _complete() -> NoReturn:
    """Answer a shell that completes a line: at once, and without a word about what went wrong."""
    os.environ["GRPC_VERBOSITY"] = "NONE"
    code = 1
    try:
        from evalfleet.cli.app import cli

        cli(prog_name="evalfleet", complete_var=_COMPLETE_VARIABLE)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except Exception:  # noqa: BLE001 - it would be told in the middle of the line that is being typed
        code = 1
    finally:
        sys.stdout.flush()
        # A call that missed the deadline is not waited for.
        os._exit(code)


if __name__ == "__main__":
    main()
