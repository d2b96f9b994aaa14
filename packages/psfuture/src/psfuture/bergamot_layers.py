"""Parts of a Marian transformer; each knows its weights by the names that the file has."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lipogram.errors import CorruptState, InvalidSetting
from psfuture.marian_options import MarianOptions

NORM_EPSILON = 1e-9
Cache = tuple[Tensor, ...]


class Weights:
    """A file's tensors, each to be taken once.

    Args:
        tensors: by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.left = {n: t for n, t in tensors.items() if not n.endswith("_QuantMultA")}

    def rows(self, name: str) -> int:
        """Length of a matrix that will be taken later.

        Raises:
            CorruptState: there is none of that name.
        """
        if name not in self.left or self.left[name].ndim != 2:
            raise CorruptState(f"the model has no matrix {name}")
        return len(self.left[name])

    def take(self, name: str, *shape: int) -> nn.Parameter:
        """A matrix, or a vector that the file may hold as a matrix of one row.

        Raises:
            CorruptState: it is missing, or of another shape.
        """
        if name not in self.left:
            raise CorruptState(f"the model has no {name}, which its options ask for")
        value = self.left.pop(name)
        if tuple(value.shape) not in (shape, (1, *shape)[-2:]):
            raise CorruptState(f"the model's {name} is {tuple(value.shape)}, it must be {shape}")
        return nn.Parameter(value.float().reshape(shape).contiguous())

    def finish(self) -> None:
        """Nothing may be left over.

        Raises:
            InvalidSetting: the model has parts that its options do not tell of.
        """
        if self.left:
            some = ", ".join(sorted(self.left)[:5])
            raise InvalidSetting(f"the model has {len(self.left)} weights of unknown use: {some}")


class Named(nn.Module):
    """A module that knows its parameters' names in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, str] = {}

    def own(self, attribute: str, weights: Weights, name: str, *shape: int) -> None:
        """Take a weight as a parameter."""
        self.register_parameter(attribute, weights.take(name, *shape))
        self.names[attribute] = name


class Affine(Named):
    """x W + b.

    Args:
        weights: to take W (inner, outer) and b (outer) from.
        names: of W, and of b; "" for none.
        inner: columns of x.
        outer: columns of the result.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weights: Weights, names: tuple[str, str], inner: int, outer: int):
        super().__init__()
        self.own("weight", weights, names[0], inner, outer)
        if names[1]:
            self.own("bias", weights, names[1], outer)
        else:
            self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """(…, inner) to (…, outer)."""
        return nn.functional.linear(x, self.weight.T, self.bias)


class Norm(Named):
    """Layer norm.

    Args:
        weights: to take its scale and bias from.
        name: with "{}" where the file says scale or bias.
        width: d.
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, weights: Weights, name: str, width: int):
        super().__init__()
        self.width = (width,)
        self.own("scale", weights, name.format("scale"), width)
        self.own("bias", weights, name.format("bias"), width)

    def forward(self, x: Tensor) -> Tensor:
        """(…, d) to (…, d)."""
        return nn.functional.layer_norm(x, self.width, self.scale, self.bias, NORM_EPSILON)


class Around(nn.Module):
    """What surrounds a sub-layer: norms before it, its input added and norms after it.

    Args:
        weights: to take the norms from.
        options: of the model; its width is of use here.
        before: name of the norm before, and the steps there; see :class:`MarianOptions`.
        after: the same after.
    """

    def __init__(
        self,
        weights: Weights,
        options: MarianOptions,
        before: tuple[str, str] = ("", ""),
        after: tuple[str, str] = ("", ""),
    ):
        super().__init__()
        self.before_steps, self.after_steps = before[1], after[1]
        d = options.width
        self.before = Norm(weights, before[0] + "_ln_{}_pre", d) if "n" in before[1] else None
        self.after = Norm(weights, after[0] + "_ln_{}", d) if "n" in after[1] else None

    def enter(self, x: Tensor) -> Tensor:
        """The sub-layer's input."""
        for _ in self.before_steps:
            assert self.before is not None
            x = self.before(x)
        return x

    def leave(self, found: Tensor, x: Tensor) -> Tensor:
        """The next sub-layer's input, of what the sub-layer found and its own input."""
        for step in self.after_steps:
            if step == "a":
                found = found + x
            else:
                assert self.after is not None
                found = self.after(found)
        return found


class Attention(nn.Module):
    """Attention of several heads (Vaswani et al. 2017, section 3.2) with what surrounds it.

    As in Marian, norms before it act on the queries' side alone.

    Args:
        weights: to take its weights from.
        options: of the model.
        name: such as "encoder_l1_self".
    """

    def __init__(self, weights: Weights, options: MarianOptions, name: str):
        super().__init__()
        self.heads, d = options.heads, options.width
        self.q, self.k, self.v, self.o = (
            Affine(weights, (f"{name}_W{gate}", f"{name}_b{gate}"), d, d) for gate in "qkvo"
        )
        edge = f"{name}_Wo"
        self.around = Around(weights, options, (edge, options.before), (edge, options.after))

    def split(self, x: Tensor) -> Tensor:
        """(B, T, d) to (B, heads, T, d / heads)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, S, d / heads)."""
        return self.split(self.k(x)), self.split(self.v(x))

    def queries(self, x: Tensor) -> Tensor:
        """Queries (B, heads, T, d / heads)."""
        return self.split(self.q(self.around.enter(x)))

    def mix(
        self,
        x: Tensor,
        queries: Tensor,
        keys_values: Cache,
        mask: Tensor | None = None,
        *,
        causal: bool = False,
    ) -> Tensor:
        """Output (B, T, d).

        Args:
            x: (B, T, d), the sub-layer's input.
            queries: made of it.
            keys_values: to look at.
            mask: true where a query may look; None allows all.
            causal: nothing looks ahead.
        """
        found = nn.functional.scaled_dot_product_attention(
            queries, keys_values[0], keys_values[1], attn_mask=mask, is_causal=causal
        )
        return self.around.leave(self.o(found.transpose(1, 2).flatten(2)), x)


class FeedForward(nn.Module):
    """Affine maps with an activation between them, and what surrounds them.

    Args:
        weights: to take its weights from.
        options: of the model.
        name: such as "encoder_l1_ffn".
    """

    def __init__(self, weights: Weights, options: MarianOptions, name: str):
        super().__init__()
        last = options.feed_forwards
        widths = [options.width, *[options.inner] * (last - 1), options.width]
        self.maps = nn.ModuleList(
            Affine(weights, (f"{name}_W{i}", f"{name}_b{i}"), widths[i - 1], widths[i])
            for i in range(1, last + 1)
        )
        self.activation = options.activation
        edge = f"{name}_ffn"
        self.around = Around(weights, options, (edge, options.before), (edge, options.after))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) to (B, T, d)."""
        found = self.maps[0](self.around.enter(x))
        for part in self.maps[1:]:
            found = part(self._act(found))
        return self.around.leave(found, x)

    def _act(self, x: Tensor) -> Tensor:
        if self.activation == "relu":
            return x.relu()
        # Marian's GELU is x * sigmoid(1.702 x).
        return nn.functional.silu(x) if self.activation == "swish" else x * torch.sigmoid(1.702 * x)
