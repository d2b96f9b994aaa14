"""The network of Bergamot's tiny models: a transformer encoder and an SSRU decoder, in PyTorch.

Post-norm transformer (Vaswani et al. 2017) whose decoder replaces self-attention by a simpler simple
recurrent unit (Kim et al. 2019, section 3.2):
    f_t = sigmoid(x_t W_f + b_f),  c_t = f_t * c_(t-1) + (1 - f_t) * (x_t W),  h_t = relu(c_t).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipogram.errors import CorruptState

NORM_EPSILON = 1e-9


class BergamotNetwork(nn.Module):
    """Weights under the file's own names, and the two halves of the forward pass.

    Args:
        weights: as :func:`psfuture.marian_file.read_marian` gives them.
        heads: of every attention.

    Raises:
        CorruptState: a weight is missing or does not fit the others.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, heads: int):
        super().__init__()
        self.heads = heads
        self.kept = nn.ParameterDict(
            {
                name.replace(".", "/"): nn.Parameter(value)
                for name, value in weights.items()
                if not name.endswith("QuantMultA")
            }
        )
        if "Wemb" not in self.kept or self.kept["Wemb"].ndim != 2:
            raise CorruptState("the model has no embedding matrix Wemb")
        self.vocab_size, self.width = self.kept["Wemb"].shape
        if self.width % heads:
            raise CorruptState(f"{heads} heads do not divide the width {self.width}")
        self.encoder_layers = self._count("encoder_l{}_self_Wq")
        self.decoder_layers = self._count("decoder_l{}_rnn_W")
        if not self.encoder_layers or not self.decoder_layers:
            raise CorruptState("the model has no transformer encoder with an SSRU decoder")
        self._check()

    def _count(self, pattern: str) -> int:
        number = 0
        while pattern.format(number + 1) in self.kept:
            number += 1
        return number

    def _check(self) -> None:
        d = self.width
        wanted = {"decoder_ff_logit_out_b": self.vocab_size}
        blocks = [(f"encoder_l{i + 1}", ["self", "ffn"]) for i in range(self.encoder_layers)]
        blocks += [(f"decoder_l{i + 1}", ["rnn", "context", "ffn"]) for i in range(self.decoder_layers)]
        for layer, parts in blocks:
            for part in parts:
                if part in ("self", "context"):
                    for gate in "qkvo":
                        wanted |= {f"{layer}_{part}_W{gate}": d * d, f"{layer}_{part}_b{gate}": d}
                    norm = f"{layer}_{part}_Wo_ln"
                elif part == "ffn":
                    inner = self.kept.get(f"{layer}_ffn_b1", torch.empty(0)).numel()
                    wanted |= {f"{layer}_ffn_W1": d * inner, f"{layer}_ffn_W2": d * inner}
                    wanted |= {f"{layer}_ffn_b1": inner or 1, f"{layer}_ffn_b2": d}
                    norm = f"{layer}_ffn_ffn_ln"
                else:
                    wanted |= {f"{layer}_rnn_W": d * d, f"{layer}_rnn_Wf": d * d, f"{layer}_rnn_bf": d}
                    norm = f"{layer}_rnn_ffn_ln"
                wanted |= {f"{norm}_scale": d, f"{norm}_bias": d}
        for name, size in wanted.items():
            if name not in self.kept or self.kept[name].numel() != size:
                raise CorruptState(f"the model's {name} is missing or does not fit a width of {d}")

    def positions(self, length: int, start: int = 0) -> Tensor:
        """Sinusoids (length, d): sines, then cosines, frequencies 10000^(-i / (d/2 - 1))."""
        half = self.width // 2
        device = self.kept["Wemb"].device
        rates = torch.exp(
            torch.arange(half, device=device) * (-math.log(10000.0) / max(half - 1, 1))
        )
        angles = torch.arange(start, start + length, device=device)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], 1)

    def encode(self, ids: Tensor, kept: Tensor) -> Tensor:
        """Encoder states.

        Args:
            ids: (B, S) source tokens, padded at the right.
            kept: (B, S), true where there is a token.

        Returns:
            (B, S, d).
        """
        x = math.sqrt(self.width) * F.embedding(ids, self.kept["Wemb"])
        x = x + self.positions(ids.shape[1])
        mask = kept[:, None, None, :]
        for number in range(1, self.encoder_layers + 1):
            layer = f"encoder_l{number}"
            attended = self._attend(f"{layer}_self", x, *self.keys_values(f"{layer}_self", x), mask)
            x = self._norm(f"{layer}_self_Wo_ln", x + attended)
            x = self._feed_forward(layer, x)
        return x

    def keys_values(self, part: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, S, d / heads) of one attention."""
        return self._heads(self._linear(part, "k", x)), self._heads(self._linear(part, "v", x))

    def context(self, encodings: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the decoder's attention, a pair a layer; fixed for one source."""
        return [
            self.keys_values(f"decoder_l{number}_context", encodings)
            for number in range(1, self.decoder_layers + 1)
        ]

    def embed(self, tokens: Tensor) -> Tensor:
        """Target embeddings (…, d), without positions; the first input of all is a zero vector."""
        return math.sqrt(self.width) * F.embedding(tokens, self.kept["Wemb"])

    def decode(
        self, x: Tensor, cells: Tensor, context: list[tuple[Tensor, Tensor]], mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the decoder over inputs that are all known.

        Args:
            x: (B, T, d) inputs with positions.
            cells: (B, L, d) the recurrent cells before them.
            context: of :meth:`context`.
            mask: (B, 1, 1, S), true where the source has a token.

        Returns:
            Hidden states (B, T, d), and the cells (B, T, L, d) after each input.
        """
        after = []
        for number in range(1, self.decoder_layers + 1):
            layer = f"decoder_l{number}"
            forget = torch.sigmoid(x @ self.kept[f"{layer}_rnn_Wf"] + self.kept[f"{layer}_rnn_bf"].view(-1))
            new = (1 - forget) * (x @ self.kept[f"{layer}_rnn_W"])
            cell, course = cells[:, number - 1], []
            for t in range(x.shape[1]):
                cell = forget[:, t] * cell + new[:, t]
                course.append(cell)
            states = torch.stack(course, 1)
            after.append(states)
            x = self._norm(f"{layer}_rnn_ffn_ln", x + states.relu())
            attended = self._attend(f"{layer}_context", x, *context[number - 1], mask)
            x = self._norm(f"{layer}_context_Wo_ln", x + attended)
            x = self._feed_forward(layer, x)
        return x, torch.stack(after, 2)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, d) to (…, V)."""
        return hidden @ self.kept["Wemb"].T + self.kept["decoder_ff_logit_out_b"].view(-1)

    def _attend(self, part: str, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        queries = self._heads(self._linear(part, "q", x))
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self._linear(part, "o", mixed.transpose(1, 2).flatten(2))

    def _linear(self, part: str, gate: str, x: Tensor) -> Tensor:
        return x @ self.kept[f"{part}_W{gate}"] + self.kept[f"{part}_b{gate}"].view(-1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        scale, bias = self.kept[f"{name}_scale"].view(-1), self.kept[f"{name}_bias"].view(-1)
        return F.layer_norm(x, (self.width,), scale, bias, NORM_EPSILON)

    def _feed_forward(self, layer: str, x: Tensor) -> Tensor:
        inner = x @ self.kept[f"{layer}_ffn_W1"] + self.kept[f"{layer}_ffn_b1"].view(-1)
        outer = inner.relu() @ self.kept[f"{layer}_ffn_W2"] + self.kept[f"{layer}_ffn_b2"].view(-1)
        return self._norm(f"{layer}_ffn_ffn_ln", x + outer)
