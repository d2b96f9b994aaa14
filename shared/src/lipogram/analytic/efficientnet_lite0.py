"""EfficientNet-Lite0, the network behind the offline backbone; the weights come from an asset.

Mobile inverted bottlenecks without squeeze-and-excite and with ReLU6, as in EfficientNet
(arXiv:1905.11946) adapted to fixed-point devices by its authors under the name Lite. The layer
names are those of the published PyTorch checkpoint, hence the leading underscores.
"""

import torch
from torch import Tensor, nn

FEATURES = 1280
# repeat, kernel, stride of the first, expansion, channels in, channels out
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


class SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow's "SAME": the odd pixel goes to the right and the bottom."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c', ceil(h / stride), ceil(w / stride))."""
        pad: list[int] = []
        for size, kernel, stride in zip(
            input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pad += [total // 2, total - total // 2]
        if any(pad):
            input = nn.functional.pad(input, pad)
        return super().forward(input)


def convolution(
    inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Module:
    """The network's only kind of convolution: "SAME" padding, no bias."""
    return SameConv2d(inside, outside, kernel, stride=stride, groups=groups, bias=False)


def batch_norm(channels: int) -> nn.Module:
    """Batch normalisation with TensorFlow's epsilon, 1e-3."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Bottleneck(nn.Module):
    """Inverted bottleneck: expand 1x1, depthwise k x k, project 1x1 linearly, add the input."""

    def __init__(self, kernel: int, stride: int, expansion: int, inside: int, outside: int) -> None:
        """Build the block; the expansion is left out where it would be 1."""
        super().__init__()
        wide = inside * expansion
        self.expands = expansion > 1
        self.residual = stride == 1 and inside == outside
        if self.expands:
            self._expand_conv = convolution(inside, wide, 1)
            self._bn0 = batch_norm(wide)
        self._depthwise_conv = convolution(wide, wide, kernel, stride, groups=wide)
        self._bn1 = batch_norm(wide)
        self._project_conv = convolution(wide, outside, 1)
        self._bn2 = batch_norm(outside)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, inside, h, w) to (b, outside, ceil(h / stride), ceil(w / stride))."""
        y: Tensor = x
        if self.expands:
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 for RGB images scaled to (value - 127) / 128, values 0 to 255."""

    def __init__(self, n_classes: int = 1000) -> None:
        """Build the network with random weights."""
        super().__init__()
        self._conv_stem = convolution(3, 32, 3, 2)
        self._bn0 = batch_norm(32)
        self._blocks = nn.ModuleList(
            Bottleneck(kernel, stride if i == 0 else 1, expansion, inside if i == 0 else out, out)
            for repeat, kernel, stride, expansion, inside, out in STAGES
            for i in range(repeat)
        )
        self._conv_head = convolution(320, FEATURES, 1)
        self._bn1 = batch_norm(FEATURES)
        self._fc = nn.Linear(FEATURES, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (b, 1280) of images (b, 3, h, w)."""
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = nn.functional.relu6(self._bn1(self._conv_head(x)))
        pooled: Tensor = x.mean(dim=(2, 3))
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (b, n_classes) of images (b, 3, h, w)."""
        scores: Tensor = self._fc(self.features(x))
        return scores

    @torch.no_grad()
    def fold_batch_norm(self) -> "EfficientNetLite0":
        """Merge each batch normalisation into its convolution, for inference only.

        The function is the same up to rounding and takes fewer passes over memory.
        """
        pairs: list[tuple[nn.Module, str, str]] = [
            (self, "_conv_stem", "_bn0"),
            (self, "_conv_head", "_bn1"),
        ]
        for block in self._blocks:
            pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
            if block.expands:
                pairs.append((block, "_expand_conv", "_bn0"))
        for owner, convolution_name, norm_name in pairs:
            fused = nn.utils.fusion.fuse_conv_bn_eval(
                getattr(owner, convolution_name), getattr(owner, norm_name)
            )
            setattr(owner, convolution_name, fused)
            setattr(owner, norm_name, nn.Identity())
        return self
