"""``python -m k8s.verify``: see ``--help``."""

import sys

from k8s.verify.command import main

if __name__ == "__main__":
    sys.exit(main())
