"""Makes a key for a caller: ``python -m services.runtime.security.new_key team-a classify read``."""

import argparse
import sys

from services.runtime.callers import CALLER_RULE, is_caller
from services.runtime.security.caller_keys import new_key
from services.runtime.security.roles import CALLER_ROLES, read_roles


def main() -> int:
    """Print the key to standard output, and to standard error what EVALFLEET_CALLER_KEYS needs of it."""
    parser = argparse.ArgumentParser(
        prog="python -m services.runtime.security.new_key",
        description="Make a key for a caller. The key goes to standard output, and is kept nowhere; what the file of "
        "EVALFLEET_CALLER_KEYS needs, a hash, goes to standard error.",
    )
    parser.add_argument("caller", help=f"its name: {CALLER_RULE}")
    parser.add_argument("roles", nargs="+", metavar="ROLE", help=f"what it may do: {', '.join(sorted(CALLER_ROLES))}")
    told = parser.parse_args()
    if not is_caller(told.caller):
        parser.error(f"a caller's name must be {CALLER_RULE}")
    try:
        roles = sorted(read_roles(told.roles))
    except ValueError as error:
        parser.error(str(error))
    key, digest = new_key()
    names = ", ".join(f'"{each}"' for each in roles)
    print(f'[callers."{told.caller}"]\nroles = [{names}]\nsha256 = ["{digest}"]', file=sys.stderr)
    print(key)
    return 0


if __name__ == "__main__":
    sys.exit(main())
