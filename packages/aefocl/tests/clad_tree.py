"""A made-up tree of SODA10M with CLAD's times: small pictures, objects on a grid of colours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 54


def picture(
    number: int, date: str, time: str, period: str = "Daytime", **changes: Any
) -> dict[str, Any]:
    """An image entry; its old name puts it into a video by its number."""
    return {
        "id": number,
        "file_name": f"HT_{number:06d}.png",
        "file_name_old": f"video_{number // 10}_{number % 10:03d}.png",
        "width": WIDTH,
        "height": HEIGHT,
        "date": date,
        "time": time,
        "period": period,
    } | changes


def thing(number: int, image: int, category: int = 3, **changes: Any) -> dict[str, Any]:
    """An annotation entry, large enough and kept by the published rule."""
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [20, 10, 40, 30],
        "area": 1200,
        "occluded": 1,
    } | changes


VAL = (
    [
        picture(1, "20191111", "100000"),
        picture(2, " 20191111", "145960 "),  # 15:00:00 once it is repaired
        picture(3, "20191111", "093000"),
        picture(4, "20191111", "200000", "Night"),
        picture(5, "20191117", "13:00"),
        picture(6, "20191117", "210000", "Night"),
        picture(7, "20191120", "080000"),
        picture(8, "20191121", "220000", "Night"),
        picture(9, "20191121", "120000"),  # a day of no segment: validation
        picture(31, "20191117", "130000", file_name_old="v_13_000.png"),
        picture(32, "20191117", "130000", file_name_old="v_9_002.png"),
        picture(33, "20191117", "130000", file_name_old="v_9_001.png"),
    ],
    [
        thing(101, 2, 1),
        thing(102, 1, 2),
        thing(103, 3),
        thing(104, 3, 4),
        thing(105, 4),
        thing(106, 5, 5),
        thing(107, 6),
        thing(108, 7, 6),
        thing(109, 8),
        thing(110, 9),
        thing(111, 31),
        thing(112, 32),
        thing(113, 33),
        thing(114, 1, area=1023),
        thing(115, 1, occluded=0),
    ],
)
TRAIN = (
    [picture(1, "50181015", "152030"), picture(2, "20181015", "160001")],
    [thing(1, 1, 2), thing(2, 2, 2), thing(3, 2, 6), thing(4, 1, 3)],
)
TEST = (
    [picture(1, "not a day", "never"), picture(2, "20190101", "100000")],
    [thing(1, 1, 1), thing(2, 2, 3), thing(3, 2, 5)],
)

Part = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def write_tree(
    root: Path, *, val: Part = VAL, train: Part | None = TRAIN, test: Part | None = TEST
) -> Path:
    """Annotations and pictures below ``root/SSLAD-2D/labeled``; returns ``root``."""
    labeled = root / "SSLAD-2D" / "labeled"
    (labeled / "annotations").mkdir(parents=True)
    for name, part in (("val", val), ("train", train), ("test", test)):
        if part is None:
            continue
        images, annotations = part
        content = json.dumps({"images": images, "annotations": annotations})
        (labeled / "annotations" / f"instance_{name}.json").write_text(content)
        (labeled / name).mkdir()
        for image in images:
            Image.fromarray(pixels(name, image["id"])).save(labeled / name / image["file_name"])
    return root


def pixels(split: str, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture (HEIGHT, WIDTH, 3) in which every pixel tells its place, and blue tells which."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    which = np.full_like(rows, 50 * ("val", "train", "test").index(split) + number)
    return np.stack([columns, rows, which], axis=2).astype(np.uint8)
