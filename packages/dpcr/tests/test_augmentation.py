import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dpcr.augmentation import ImageRecipe, ImageRows, image_recipe
from dpcr.randomness import drawn_from
from lipogram.analytic.images import ArrayImages, FileImages
from lipogram.analytic.sources import PARTED_SETS
from lipogram.errors import BrokenImage, InvalidSetting

CIFAR_MEAN, CIFAR_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
IMAGES = ArrayImages("noise", PIXELS, [0, 1, 2, 0, 1, 2], ["a", "b", "c"])


def normal(pixels: np.ndarray, mean: tuple, std: tuple) -> torch.Tensor:
    rows = (pixels.astype(np.float64) / 255 - mean) / std
    return torch.from_numpy(rows.transpose(2, 0, 1)).float()


def test_every_set_of_parts_but_fashion_has_a_recipe() -> None:
    for name in PARTED_SETS:
        if name != "fashion-mnist":
            assert image_recipe(name).side in (32, 64, 224)
    with pytest.raises(InvalidSetting, match=r"'mnist'.*cifar100"):
        image_recipe("mnist")
    with pytest.raises(InvalidSetting, match="train is 'crop'"):
        ImageRecipe(32, train="crop")
    with pytest.raises(InvalidSetting, match="side is 0"):
        ImageRecipe(0)


def test_small_test_images_are_only_normalised() -> None:
    rows = ImageRows(IMAGES, image_recipe("cifar100").test_transform())
    x, y = rows[4]
    torch.testing.assert_close(x, normal(PIXELS[4], CIFAR_MEAN, CIFAR_STD), rtol=0, atol=1e-5)
    assert (y, type(y), x.dtype) == (1, int, torch.float32)


def test_large_test_images_lose_their_rim() -> None:
    image = Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8))
    found = image_recipe("cub200").test_transform()(image)
    resized = np.asarray(image.resize((341, 256), Image.Resampling.BILINEAR))
    wanted = normal(resized[16:240, 58:282], IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_pad_and_crop_moves_by_at_most_four_pixels_and_mirrors() -> None:
    recipe = ImageRecipe(32, train="pad and crop")
    rows = ImageRows(IMAGES, recipe.train_transform(), seed=1)
    padded = np.pad(PIXELS[0], ((4, 4), (4, 4), (0, 0)))
    places = {}
    for y in range(9):
        for x in range(9):
            cut = padded[y : y + 32, x : x + 32]
            for mirrored in (False, True):
                seen = normal(cut[:, ::-1] if mirrored else cut, IMAGENET_MEAN, IMAGENET_STD)
                places[y, x, mirrored] = seen
    found = set()
    for epoch in range(12):
        rows.set_epoch(epoch)
        image = rows[0][0]
        (place,) = [p for p, seen in places.items() if torch.allclose(image, seen, atol=1e-5)]
        found.add(place)
    assert len(found) > 8
    assert len({place[2] for place in found}) == 2
    assert max(abs(shift - 4) for place in found for shift in place[:2]) > 2


def test_cifar_also_changes_colours() -> None:
    bright = np.full((1, 32, 32, 3), 100, np.uint8)
    images = ArrayImages("grey", bright, [0], ["a"])
    rows = ImageRows(images, image_recipe("cifar100").train_transform())
    centres = []
    for epoch in range(20):
        rows.set_epoch(epoch)
        centre = rows[0][0][:, 16, 16] * torch.tensor(CIFAR_STD) + torch.tensor(CIFAR_MEAN)
        centres.append(tuple(centre.mul(255).round().int().tolist()))
    assert len(set(centres)) > 5


def test_crop_and_resize_gives_the_side_of_the_network() -> None:
    rows = ImageRows(IMAGES, image_recipe("imagenet-100").train_transform())
    assert rows[0][0].shape == (3, 224, 224)


def test_choices_depend_on_seed_epoch_and_image_alone() -> None:
    recipe = image_recipe("cifar100").train_transform()
    rows = ImageRows(IMAGES, recipe, seed=3)
    rows.set_epoch(2)
    whole = [rows[i][0] for i in range(6)]
    before = torch.default_generator.get_state()
    torch.rand(7)
    for i in (5, 0, 3):
        assert torch.equal(rows[i][0], whole[i])
    some = ImageRows(IMAGES, recipe, indices=[4, 2], seed=3)
    some.set_epoch(2)
    assert torch.equal(some[1][0], whole[2])
    for workers in (0, 2):
        batches = list(DataLoader(rows, batch_size=4, num_workers=workers))
        assert torch.equal(torch.cat([x for x, _ in batches]), torch.stack(whole))
        assert torch.cat([y for _, y in batches]).tolist() == IMAGES.labels.tolist()
    rows.set_epoch(3)
    assert not torch.equal(rows[0][0], whole[0])
    other = ImageRows(IMAGES, recipe, seed=4)
    other.set_epoch(2)
    assert not torch.equal(other[0][0], whole[0])
    torch.default_generator.set_state(before)
    ImageRows(IMAGES, recipe)[0]
    assert torch.equal(torch.default_generator.get_state(), before)
    with pytest.raises(ZeroDivisionError), drawn_from(1, 2):
        torch.rand(1) / (1 // 0)
    assert torch.equal(torch.default_generator.get_state(), before)


def test_images_of_one_epoch_are_changed_in_different_ways() -> None:
    twins = ArrayImages("twins", np.repeat(PIXELS[:1], 8, axis=0), [0] * 8, ["a"])
    rows = ImageRows(twins, ImageRecipe(32, train="pad and crop").train_transform())
    assert len({rows[i][0].numpy().tobytes() for i in range(8)}) > 4


def test_given_labels_replace_those_of_the_collection() -> None:
    rows = ImageRows(IMAGES, image_recipe("cifar10").test_transform(), indices=[5], labels=[70])
    assert len(rows) == 1
    assert rows[0][1] == 70


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"indices": [0, 6]}, "6 images"),
        ({"indices": [-1]}, "6 images"),
        ({"indices": [[0, 1]]}, "one row"),
        ({"labels": [1, 2]}, "labels"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_rows_that_make_no_sense_are_refused(given: dict, match: str) -> None:
    with pytest.raises(InvalidSetting, match=match):
        ImageRows(IMAGES, image_recipe("cifar100").test_transform(), **given)
    rows = ImageRows(IMAGES, image_recipe("cifar100").test_transform())
    with pytest.raises(InvalidSetting, match="epoch is -1"):
        rows.set_epoch(-1)


def test_a_broken_file_is_named(tmp_path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    images = FileImages("files", tmp_path, ["bad.jpg"], [0], ["a"])
    with pytest.raises(BrokenImage, match=r"bad\.jpg"):
        ImageRows(images, image_recipe("cub200").test_transform())[0]
