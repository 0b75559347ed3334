"""``python -m zowarmup``."""

import sys

from zowarmup.cli import main

if __name__ == "__main__":
    sys.exit(main())
