"""`python -m certstream`."""

import sys

from certstream.cli import main

if __name__ == "__main__":
    sys.exit(main())
