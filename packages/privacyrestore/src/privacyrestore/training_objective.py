"""What a bank is trained to lower: the odds-ratio preference loss with two language-model terms.

With p̄ an answer's mean token log-probability after q⁻ on the restored model, y⁺ and y⁻ the frozen
model's answers to q and to q⁻, and a the gold answer:

    L = −p̄(y⁺) − α·log σ(o⁺ − o⁻) − p̄(a),   o = p̄ − log(1 − e^p̄)

Source: PrivacyRestore (arXiv 2406.01394), section 4.2; the odds ratio is ORPO's (arXiv 2403.07691).
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lipogram.errors import InvalidSetting
from lipogram.llm.objectives import precise

LARGEST = -1e-6
"""A mean log-probability above this counts as this: at 0 the odds are infinite."""


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − e^x) for x < 0, to a few units in the last place, with a finite gradient.

    Either branch alone loses all digits at one end (Mächler 2012, "Accurately computing
    log(1 − exp(−|a|))").
    """
    near = x > -math.log(2)
    # Each branch gets a harmless argument where the other counts, or its gradient there would be
    # 0·∞.
    return torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, x, -1.0))),
        torch.log1p(-torch.exp(torch.where(near, -1.0, x))),
    )


def log_odds(mean_logps: Tensor) -> Tensor:
    """Log-odds o = p̄ − log(1 − e^p̄) of mean token log-probabilities p̄, of any shape.

    Half precision is computed in float32; p̄ is at most `LARGEST`.
    """
    bounded = precise(mean_logps).clamp(max=LARGEST)
    return bounded - log1mexp(bounded)


def orpo_lm_loss(preferred: Tensor, rejected: Tensor, gold: Tensor, alpha: float = 1.0) -> Tensor:
    """L of each row, [b] float32 (float64 for such input).

    Args:
        preferred: [b] p̄ of y⁺, at most 0.
        rejected: [b] p̄ of y⁻.
        gold: [b] p̄ of a.
        alpha: α, at least 0.

    Raises:
        InvalidSetting: a negative or infinite α.
    """
    if not 0 <= alpha < math.inf:
        raise InvalidSetting(f"alpha is {alpha}, it must be finite and at least 0")
    preference = logsigmoid(log_odds(preferred) - log_odds(rejected))
    return -precise(preferred) - alpha * preference - precise(gold)
