"""Images of all kinds become arrays of bytes; broken ones are named."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import seqtool.images as images_module
from seqtool.errors import ConfigError, DataError
from seqtool.images import fit, is_images, read_images

ROOT = Path(__file__).parent.parent
GREY = np.arange(20, dtype=np.uint8).reshape(4, 5) * 10
COLOUR = np.stack([GREY, GREY // 2, 255 - GREY], axis=2)


def put(path: Path, pixels=GREY, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def idx(array, kind=8) -> bytes:
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()
    )


def say(source, **options) -> str:
    with pytest.raises(DataError) as error:
        read_images(str(source), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def tree(tmp_path):
    put(tmp_path / "b" / "1.png")
    put(tmp_path / "b" / "deep" / "2.bmp", GREY + 1)
    put(tmp_path / "a" / "3.pgm", GREY + 2)
    put(tmp_path / "a" / ".hidden.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    return tmp_path


def test_folders_are_labels(tree):
    found = read_images(str(tree))
    assert list(found.labels) == ["a", "b", "b"]
    assert found.classes == ("a", "b")
    assert found.pixels.shape == (3, 4, 5, 1)
    assert found.pixels.dtype == np.uint8
    assert (found.pixels[0, ..., 0] == GREY + 2).all()
    assert found.place(2) == str(tree / "b" / "deep" / "2.bmp")
    assert (found.notes, found.skipped) == ((), ())


def test_one_image_and_a_folder_without_labels(tree):
    one = read_images(str(tree / "b" / "1.png"))
    assert (one.pixels[0, ..., 0] == GREY).all()
    assert list(one.labels) == []
    assert list(read_images(str(tree / "b" / "deep")).labels) == []


def test_an_image_beside_the_folders_is_refused(tree):
    stray = put(tree / "z.png")
    assert say(tree) == f"{stray}: lies beside the folders; move it into the folder of its label"


def test_other_sizes_are_brought_to_the_commonest_and_said(tree):
    put(tree / "a" / "big.png", np.full((40, 50), 77, np.uint8))
    found = read_images(str(tree))
    assert found.pixels.shape == (4, 4, 5, 1)
    assert (found.pixels[1] == 77).all()
    assert found.notes == ("1 of 4 images (4x5 to 40x50) resized to 4x5",)
    assert read_images(str(tree), size=(2, 3)).pixels.shape == (4, 2, 3, 1)


def test_large_images_become_as_many_steps_as_a_network_can_take(tmp_path):
    put(tmp_path / "a.png", np.zeros((100, 200), np.uint8))
    found = read_images(str(tmp_path / "a.png"))
    assert found.pixels.shape == (1, 32, 64, 1)
    assert found.notes == ("1 of 1 images (100x200) resized to 32x64",)


def test_one_coloured_image_makes_all_three_channels(tree):
    put(tree / "b" / "red.png", COLOUR)
    found = read_images(str(tree))
    assert found.pixels.shape == (4, 4, 5, 3)
    assert (found.pixels[-1] == COLOUR).all()
    assert (found.pixels[0] == (GREY + 2)[..., None]).all()
    assert found.notes == ("3 of 4 images are grey among coloured ones",)
    grey = read_images(str(tree), colour=False)
    assert grey.pixels.shape == (4, 4, 5, 1)
    assert grey.notes == ("1 of 4 images turned from colour to grey",)
    expected = np.asarray(Image.fromarray(COLOUR).convert("L")).astype(int)
    assert abs(grey.pixels[-1, ..., 0] - expected).max() <= 1


def test_odd_kinds_of_pixels_are_understood(tmp_path):
    put(tmp_path / "deep.png", GREY.astype(np.uint16) * 257)
    put(tmp_path / "grey.png", np.stack([GREY] * 3, axis=2))
    clear = np.dstack([COLOUR, np.zeros((4, 5), np.uint8)])
    put(tmp_path / "clear.png", clear)
    Image.fromarray(GREY > 90).save(tmp_path / "two.png")
    files = read_images(str(tmp_path))
    names = [Path(name).stem for name in files.files]
    found = dict(zip(names, files.pixels, strict=True))
    assert files.pixels.shape == (4, 4, 5, 1)
    assert (found["deep"][..., 0] == GREY).all()
    assert (found["grey"][..., 0] == GREY).all()
    assert (found["clear"] == 255).all()
    assert (found["two"][..., 0] == np.where(GREY > 90, 255, 0)).all()


def test_a_picture_taken_on_its_side_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    put(tmp_path / "a.png", exif=exif)
    assert (read_images(str(tmp_path / "a.png")).pixels[0, ..., 0] == np.rot90(GREY, -1)).all()


@pytest.mark.parametrize(
    ("name", "content"),
    [("a/x.png", b""), ("a/x.jpg", b"no image"), ("a/x.png", b"\x89PNG\r\n\x1a\n\0\0")],
)
def test_a_broken_image_is_named_and_skipped_on_demand(tree, name, content):
    (tree / name).write_bytes(content)
    line = say(tree)
    assert line.startswith(f"{tree / name}: not an image, or a broken one (")
    advice = "; mend or remove it, or leave such images out with --skip-bad"
    assert line.endswith(advice)
    found = read_images(str(tree), skip_bad=True)
    assert len(found) == 3
    assert found.skipped == (line.removesuffix(advice),)


def test_an_image_cut_short_is_broken(tree):
    noise = np.random.default_rng(1).integers(0, 256, (40, 40), np.uint8)
    path = put(tree / "a" / "x.png", noise)
    path.write_bytes(path.read_bytes()[:900])
    assert say(tree).startswith(f"{path}: not an image, or a broken one (")


def test_a_bomb_is_refused(tree, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    assert "decompression bomb" in say(tree)


def test_nothing_but_broken_images_is_no_data(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no")
    assert "no image that can be read; the first is" in say(tmp_path, skip_bad=True)
    (tmp_path / "x.png").unlink()
    assert "no image in this directory" in say(tmp_path)
    assert "no such file or directory" in say(tmp_path / "y.png")
    with pytest.raises(ConfigError, match="--image-size must be at least 1x1, got 0x3"):
        read_images(str(tmp_path), size=(0, 3))


@pytest.fixture
def mnist(tmp_path):
    rng = np.random.default_rng(5)
    for part, count in (("train", 7), ("t10k", 3)):
        pixels = rng.integers(0, 256, (count, 4, 5), np.uint8)
        blobs = {"images-idx3": pixels, "labels-idx1": np.arange(count, dtype=np.uint8) % 3}
        for name, array in blobs.items():
            packed = gzip.compress(idx(array))
            (tmp_path / f"{part}-{name}-ubyte.gz").write_bytes(packed)
    return tmp_path


def test_idx_files_find_their_labels(mnist):
    found = read_images(str(mnist))
    assert found.pixels.shape == (7, 4, 5, 1)
    assert list(found.labels) == list("0120120")
    assert found.place(6) == "7"
    test = read_images(str(mnist / "t10k-images-idx3-ubyte.gz"), size=(8, 10), colour=True)
    assert test.pixels.shape == (3, 8, 10, 3)
    assert test.notes[0] == "3 of 3 images (4x5) resized to 8x10"
    assert found.sha256 != test.sha256


def test_idx_without_labels_is_fine(mnist):
    (mnist / "train-labels-idx1-ubyte.gz").unlink()
    assert list(read_images(str(mnist)).labels) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\3\4", "not an idx file; it begins with the bytes 50 4b 03 04"),
        (idx(np.zeros((2, 3, 4), np.uint8))[:-1], "23 bytes of pixels or labels, but its header"),
        (idx(np.zeros((2, 3, 4), np.uint8), kind=13), "an idx file of type 0x0d; needed are bytes"),
        (idx(np.zeros(4, np.uint8)), "an idx file of shape 4; images need count x height x width"),
        (idx(np.zeros((2, 3, 4), np.uint8)), "7 labels for the 2 images of train-images-idx3"),
    ],
)
def test_a_bad_idx_file_is_told(mnist, content, message):
    (mnist / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    assert message in say(mnist)


def test_many_pixels_live_on_disk(tree, monkeypatch):
    small = read_images(str(tree))
    monkeypatch.setattr(images_module, "MEMORY_BYTES", 10)
    big = read_images(str(tree))
    assert isinstance(big.pixels, np.memmap)
    assert (big.pixels == small.pixels).all()


def test_select_and_keys(tree):
    found = read_images(str(tree))
    part = found.select([2, 0])
    assert list(part.labels) == ["b", "a"]
    assert part.keys().tolist() == [found.keys().tolist()[i] for i in (2, 0)]
    assert len(set(found.keys().tolist())) == 3


def test_fit_changes_nothing_that_fits():
    assert (fit(COLOUR, (4, 5), 3) == COLOUR).all()
    assert fit(GREY[..., None], (4, 5), 3).shape == (4, 5, 3)


def test_images_are_told_from_other_sources(tree, mnist):
    assert is_images(str(tree))
    assert is_images("x/photo.JPG")
    assert is_images(str(mnist))
    assert not is_images("x.csv")
    assert not is_images(str(ROOT / "seqtool"))
    assert not is_images(str(ROOT / "sample_data"))  # texts first, and so it stays


def test_sample_shapes_are_what_their_readme_says():
    found = read_images(str(ROOT / "sample_data" / "shapes"))
    assert found.pixels.shape == (300, 16, 16, 1)
    assert found.classes == ("circle", "cross", "square", "triangle")
    assert len(set(found.keys().tolist())) == 300
