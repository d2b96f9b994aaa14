"""From pixels to what a network reads."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Preparation:
    """Resize an RGB image to a square and standardise it.

    Attributes:
        image_size: side s of the square, pixels.
        mean: subtracted from each channel, on the scale 0 to 255.
        std: divides each channel after that, on the same scale.
        fit: "squash" resizes both sides to s; "crop" resizes the shorter side to
            round(s / crop_share) and keeps the central square.
        crop_share: share of the resized shorter side that "crop" keeps.
        resample: Pillow's name of the filter; all of them anti-alias.
    """

    image_size: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)
    fit: Literal["squash", "crop"] = "squash"
    crop_share: float = 1.0
    resample: str = "BILINEAR"

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """Float32 tensor (3, s, s) of an image (h, w, 3)."""
        from PIL import Image

        size = self.image_size
        picture = Image.fromarray(image)
        resample = Image.Resampling[self.resample]
        if self.fit == "squash":
            # Reducing by a whole factor first is several times faster on large images.
            picture = picture.resize((size, size), resample, reducing_gap=3.0)
        else:
            short = round(size / self.crop_share)
            scale = short / min(picture.size)
            width, height = (max(short, round(side * scale)) for side in picture.size)
            # The box is resized alone: a one-pixel line stretched whole would fill the memory.
            left, top = (width - size) / 2 / scale, (height - size) / 2 / scale
            box = (left, top, left + size / scale, top + size / scale)
            picture = picture.resize((size, size), resample, box=box, reducing_gap=3.0)
        # In NumPy: torch would wake its threads for every small image, at many times the cost.
        values: NDArray[np.float32] = np.array(picture, np.float32)
        values -= np.array(self.mean, np.float32)
        values /= np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
