"""`make bench-dpcr`: the ratios and floors that the README quotes. Exit code 1 below a floor."""

import sys

from dpcr.cli import main

if __name__ == "__main__":
    sys.argv = ["dpcr", "bench", *sys.argv[1:]]
    main()
