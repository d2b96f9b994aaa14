import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lipogram.analytic.images import ArrayImages, FileImages, FolderImages, decode
from lipogram.errors import BrokenImage, InvalidLabels, InvalidSetting

RED = np.full((5, 7, 3), (255, 0, 0), np.uint8)


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes whose header announces `width` x `height`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def saved(tmp_path, image: Image.Image, name: str = "image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["RGB", "P", "CMYK", "RGBA", "L", "1", "LA"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    image = Image.fromarray(RED).convert(mode)
    name = "image.tif" if mode == "CMYK" else "image.png"
    pixels = decode(saved(tmp_path, image, name))
    assert pixels.shape == (5, 7, 3)
    assert pixels.dtype == np.uint8
    if mode in ("L", "LA"):
        assert np.ptp(pixels) == 0
        assert 70 < pixels[0, 0, 0] < 80  # the luminance of red
    elif mode != "1":
        assert np.array_equal(pixels, RED)


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (255, 0, 0, 255)
    rgba[0, 1] = (0, 0, 0, 0)
    rgba[1, 0] = (0, 0, 0, 128)
    pixels = decode(saved(tmp_path, Image.fromarray(rgba)))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[0, 1].tolist() == [255, 255, 255]
    assert np.abs(pixels[1, 0].astype(int) - 127).max() <= 1

    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    palette.putpalette([9, 9, 9, 0, 0, 255])
    pixels = decode(saved(tmp_path, palette, "palette.png", transparency=0))
    assert pixels[0].tolist() == [[255, 255, 255], [0, 0, 255]]


def test_sixteen_bit_grey_keeps_its_upper_byte(tmp_path):
    values = np.array([[0, 256, 0x80FF, 0xFFFF]], np.uint16)
    pixels = decode(saved(tmp_path, Image.fromarray(values)))
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floating_point_pixels_are_refused(tmp_path):
    image = Image.fromarray(np.zeros((2, 2), np.float32))
    with pytest.raises(BrokenImage, match="no known range"):
        decode(saved(tmp_path, image, "float.tif"))


def test_the_orientation_of_the_camera_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    halves = np.zeros((8, 16, 3), np.uint8)
    halves[:, 8:] = 255
    pixels = decode(saved(tmp_path, Image.fromarray(halves), "turned.jpg", exif=exif, quality=95))
    assert pixels.shape == (16, 8, 3)
    assert pixels[:4].mean() < 20 < 230 < pixels[12:].mean()


@pytest.mark.parametrize("side", [20_000, 6_325])
def test_a_bomb_is_refused_from_its_header(side, tmp_path, monkeypatch):
    file = tmp_path / "bomb.png"
    file.write_bytes(png_that_claims(side, side))
    monkeypatch.setattr(
        "PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("the bomb was decoded")
    )
    with pytest.raises(BrokenImage, match="limit"):
        decode(file)


def test_the_limit_is_the_callers(tmp_path):
    file = saved(tmp_path, Image.new("RGB", (30, 20)))
    assert decode(file, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(BrokenImage, match=r"image\.png: 30 x 20 is 0\.0 Mpixel"):
        decode(file, max_pixels=599)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a",
        b"<svg/>",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0" + bytes(50),
        b"%!PS-Adobe",
    ],
)
def test_what_is_no_image_is_broken(content, tmp_path):
    file = tmp_path / "broken.png"
    file.write_bytes(content)
    with pytest.raises(BrokenImage, match=r"broken\.png"):
        decode(file)


def test_a_truncated_image_is_broken(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for name in ("noise.png", "noise.jpg", "noise.webp", "noise.tif"):
        file = saved(tmp_path, Image.fromarray(noise), name)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(BrokenImage, match=r"cannot be decoded|no image"):
            decode(file)


@given(cut=st.integers(0, 400), byte=st.integers(0, 255), at=st.integers(0, 400))
def test_damage_gives_an_image_or_a_typed_error(cut, byte, at, tmp_path_factory):
    file = tmp_path_factory.mktemp("damage") / "image.png"
    Image.fromarray(RED).save(file)
    content = bytearray(file.read_bytes())
    content[at % len(content)] = byte
    file.write_bytes(content[: len(content) - cut % 20])
    try:
        assert decode(file).shape[2] == 3
    except BrokenImage:
        pass


def test_a_folder_is_labelled_by_its_subfolders(tmp_path):
    for name in ("b/two.png", "a/deep/er/one.PNG", "b/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RED).save(tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "stray.png").write_bytes(b"belongs to no class")
    images = FolderImages(tmp_path)
    assert images.ids == ["a/deep/er/one.PNG", "b/two.png", "b/x.jpg"]
    assert images.class_names == ["a", "b"]
    assert images.labels.tolist() == [0, 1, 1]
    assert np.array_equal(images.load(0), RED)


def test_a_broken_file_is_named_by_its_identifier(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"no")
    with pytest.raises(BrokenImage, match=r"^a/x\.png: "):
        FolderImages(tmp_path).load(0)


def test_a_folder_without_images_says_what_it_wants(tmp_path):
    with pytest.raises(InvalidSetting, match="PATH/CLASS/FILE"):
        FolderImages(tmp_path)
    with pytest.raises(InvalidSetting, match="no folder"):
        FolderImages(tmp_path / "nowhere")


def test_arrays_are_checked():
    grey = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    images = ArrayImages("grey", grey, [1, 0], ["a", "b"])
    assert images.load(1).shape == (3, 4, 3)
    assert np.array_equal(images.load(1)[:, :, 2], grey[1])
    with pytest.raises(InvalidSetting, match="float64"):
        ArrayImages("grey", grey.astype(float), [1, 0], ["a", "b"])
    with pytest.raises(InvalidLabels, match="2 images but labels of shape"):
        ArrayImages("grey", grey, [1], ["a", "b"])
    with pytest.raises(InvalidLabels, match="0 to 2, but there are 2"):
        ArrayImages("grey", grey, [0, 2], ["a", "b"])


def test_fingerprints_tell_collections_apart(tmp_path):
    grey = np.zeros((2, 3, 4), np.uint8)
    other = grey.copy()
    other[1, 1, 1] = 1
    variants = [
        ArrayImages("x", grey, [0, 1], ["a", "b"]),
        ArrayImages("x", other, [0, 1], ["a", "b"]),
        ArrayImages("x", grey, [1, 0], ["a", "b"]),
        ArrayImages("x", grey, [0, 1], ["a", "c"]),
        ArrayImages("y", grey, [0, 1], ["a", "b"]),
    ]
    assert len({images.fingerprint for images in variants}) == len(variants)
    assert ArrayImages("x", grey.copy(), [0, 1], ["a", "b"]).fingerprint == variants[0].fingerprint

    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"12345")
    prints = {
        FileImages("f", tmp_path, ["a", "b"], [0, 0], ["c"]).fingerprint,
        FileImages("f", tmp_path, ["b", "a"], [0, 0], ["c"]).fingerprint,
        FileImages("f", tmp_path, ["a", "b"], [0, 0], ["c"], max_pixels=9).fingerprint,
    }
    (tmp_path / "a").write_bytes(b"123456")
    prints.add(FileImages("f", tmp_path, ["a", "b"], [0, 0], ["c"]).fingerprint)
    assert len(prints) == 4
