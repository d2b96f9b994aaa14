"""What a federation insists on unless it is told otherwise; nothing heavy is imported for it."""

from typing import Literal

MINIMUM_ROWS = 20  # a client's; fewer can be read out of their sums
MINIMUM_COHORT = 3  # of a masked sum
Precision = Literal["float64", "float32", "bfloat16"]
