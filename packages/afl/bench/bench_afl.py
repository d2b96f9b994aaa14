"""`make bench-afl`: the ratios and floors that the README quotes. Exit code 1 below a floor."""

import sys

from afl.cli import main

if __name__ == "__main__":
    sys.argv = ["afl", "bench", *sys.argv[1:]]
    main()
