"""`make bench-air`: the ratios and floors that the README quotes. Exit code 1 below a floor."""

import sys

from air.cli import main

if __name__ == "__main__":
    sys.argv = ["air", "bench", *sys.argv[1:]]
    main()
