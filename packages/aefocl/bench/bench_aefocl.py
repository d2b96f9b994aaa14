"""`make bench-aefocl`: the ratios and floors that the README quotes. Exit code 1 below a floor."""

import sys

from aefocl.cli import main

if __name__ == "__main__":
    sys.argv = ["aefocl", "bench", *sys.argv[1:]]
    main()
