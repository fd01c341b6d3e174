"""`python -m edge_gemma`: the command line."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
