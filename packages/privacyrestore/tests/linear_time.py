"""Whether work grows no faster than the text it is done on."""

import time


def grows_linearly(work, text, seconds=5):
    """Whether 100,000 letters take no longer than `seconds`, and ten times what 10,000 take.

    A quadratic method takes a hundred times as long. A busy machine is given three chances.

    Args:
        work: called with a text.
        text: makes one of so many letters.
        seconds: of one core.
    """

    def spent(n):
        whole = text(n)
        begun = time.process_time()
        work(whole)
        return time.process_time() - begun

    def once():
        least = max(min(spent(10_000) for _ in range(2)), 0.005)
        return spent(100_000) < min(seconds, 30 * least)

    return any(once() for _ in range(3))
