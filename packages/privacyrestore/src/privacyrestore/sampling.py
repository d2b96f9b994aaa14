"""The next token of one row, drawn from a generator of its own."""

import secrets

import torch
from torch import Tensor

from privacyrestore.engine_request import TokenLogprob

_FEW = 512  # tokens that nearly always hold the share that is drawn from


class Sampler:
    """Chooses tokens for one row; what it draws does not depend on the rows beside it.

    Args:
        temperature: 0 is greedy, ties to the lowest id.
        top_p: share of the probability that is drawn from: a token stays if those likelier than it
            do not reach the share yet.
        seed: of the draws; None for one from the operating system.
    """

    def __init__(self, temperature: float, top_p: float, seed: int | None):
        self.temperature, self.top_p = temperature, top_p
        seed = secrets.randbits(63) if seed is None else seed
        self._generator = torch.Generator().manual_seed(seed)

    def choose(self, logits: Tensor) -> int:
        """A token id from logits [v]."""
        if self.temperature == 0:
            return int(logits.argmax())
        logits = logits.double().cpu()
        # The difference first: a quotient by a tiny temperature overflows.
        probs = ((logits - logits.max()) / self.temperature).softmax(-1)
        ids = None
        if self.top_p < 1:
            ids = self._likely(probs)
            probs, order = probs[ids].sort(descending=True, stable=True)
            ids = ids[order]
            kept = int((probs.cumsum(-1) - probs < self.top_p).sum())
            probs, ids = probs[:kept], ids[:kept]
        edges = probs.cumsum(-1)
        point = torch.rand((), generator=self._generator, dtype=torch.float64) * edges[-1]
        place = int(torch.searchsorted(edges, point, right=True))
        return place if ids is None else int(ids[place])

    def _likely(self, probs: Tensor) -> Tensor:
        """Ids, ascending, among which are all that are drawn from: few, as sorting all is slow."""
        likeliest = probs.topk(min(_FEW, len(probs))).values
        if likeliest.sum() < self.top_p:
            return torch.arange(len(probs))
        return (probs >= likeliest[-1]).nonzero()[:, 0]


def token_logprob(logits: Tensor, token: int, top: int) -> TokenLogprob:
    """The chosen token's log-probability and the likeliest tokens', from logits [v]."""
    log_probs = logits.float().log_softmax(-1)
    best, ids = log_probs.topk(min(top, len(log_probs)))
    likeliest = tuple(zip(ids.tolist(), best.tolist(), strict=True))
    return TokenLogprob(token, float(log_probs[token]), likeliest)
