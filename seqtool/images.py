"""Labelled images as arrays of bytes: a folder for each label, single images, and idx files.

Pixels are read here, one image at a time; that a row of pixels is a time step is the business of
the model. Images of many sizes and kinds are brought to one size and kind, and that is said.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt

from seqtool.errors import ConfigError, DataError
from seqtool.splits import Keys, blob_key
from seqtool.text import PACKED, TextFiles, open_text
from seqtool.text import SUFFIXES as TEXT_SUFFIXES

Pixels = npt.NDArray[np.uint8]

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)
LARGEST = 64  # pixels; without a size given, a longer side is scaled down to this many steps
OR_SKIP = "; mend or remove it, or leave such images out with --skip-bad"
LOOKED_AT = 100  # names, to see whether they are those of images
MEMORY_BYTES = 1 << 28  # more pixels than this live in a temporary file
_IDX_BYTES = 0x08  # the code of unsigned bytes in an idx file


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size, with their labels; n images, H rows of W pixels, C channels."""

    name: str  # what the user called it, for messages
    pixels: Pixels  # (n, H, W, C), C = 1 for grey (0 black), 3 for red, green, blue
    labels: Sequence[str]  # (n,), or none
    files: tuple[str, ...]  # (n,) or, of an idx file, none
    sha256: str  # of the sources
    notes: tuple[str, ...] = ()  # what was done to them, for the user
    skipped: tuple[str, ...] = ()  # broken ones, with the reason
    multi_label: bool = False

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur: numbers in the order of numbers, others in the alphabet's."""
        found = set(self.labels)
        if all(label.isdecimal() for label in found):
            return tuple(sorted(found, key=lambda label: (int(label), label)))
        return tuple(sorted(found))

    def place(self, index: int) -> str:
        """What a message calls an image: its file, or its number in the idx file from 1."""
        return self.files[index] if self.files else str(index + 1)

    def keys(self) -> Keys:
        """Fingerprints of the pixels, (n,): equal for equal images."""
        return np.fromiter((blob_key(image.tobytes()) for image in self.pixels), np.uint64)

    def select(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> "Images":
        """Some of the images, in this order."""
        return replace(
            self,
            pixels=self.pixels[np.asarray(indices, dtype=np.int64)],
            labels=[self.labels[i] for i in indices] if self.labels else [],
            files=tuple(self.files[i] for i in indices) if self.files else (),
        )


def are_names(texts: Sequence[str]) -> bool:
    """Whether texts are names of image files, all of them that are looked at."""
    seen = texts[:LOOKED_AT]
    return bool(seen) and all(text.strip().lower().endswith(SUFFIXES) for text in seen)


def is_images(source: str) -> bool:
    """Whether a source holds images: by its name, or for a directory by the names in it.

    A directory of texts with a folder of pictures in it is one of texts.
    """
    path = Path(source)
    if path.is_dir():
        if any(name.name.lower().endswith(TEXT_SUFFIXES) for name in path.iterdir()):
            return False
        return bool(_idx_images(path)) or next(_image_paths(path), None) is not None
    return path.suffix.lower() in SUFFIXES or _is_idx(path)


def read_images(
    source: str,
    *,
    size: tuple[int, int] | None = None,
    colour: bool | None = None,
    skip_bad: bool = False,
) -> Images:
    """Read images.

    Args:
        source: A directory with one folder of images per label, a directory of images without
            labels, one image, an idx file of images (MNIST's format, also compressed) with the file
            of labels beside it, or a directory of such; of several, that with "train" in its name.
        size: (H, W) to bring all images to; without, the commonest size, scaled down to at most
            64 pixels a side.
        colour: Three channels or one; without, three if any image is not grey.
        skip_bad: Leave out images that cannot be read, and list them in ``skipped``.

    Raises:
        ConfigError: If the size is impossible.
        DataError: If there is no image, or one is broken; it is named.
    """
    if size is not None and min(size) < 1:
        raise ConfigError(f"--image-size must be at least 1x1, got {size[0]}x{size[1]}")
    path = Path(source)
    idx = _idx_images(path) if path.is_dir() else path if _is_idx(path) else None
    if idx is not None:
        return _from_idx(source, idx, size, colour)
    if path.is_dir():
        paths = tuple(_image_paths(path))
        if not paths:
            raise DataError(f"{source}: no image in this directory; known are {_known()}")
    else:
        open_text(source, encoding="latin-1", binary_ok=True)  # says what is wrong with the name
        paths = (path,)
    return _from_files(source, path, paths, size, colour, skip_bad)


def fit(pixels: Pixels, size: tuple[int, int], channels: int) -> Pixels:
    """Bring one image to a size and number of channels, as training has done.

    Args:
        pixels: (H, W, C) with C = 1 or 3.
        size: The height and width wanted.
        channels: 1 or 3.
    """
    from PIL import Image

    if pixels.shape[:2] != size:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        resized = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BOX))
        pixels = resized.reshape(*size, -1)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return pixels.repeat(3, axis=2)
    # Luma of ITU-R BT.601, as in Pillow's own conversion.
    luma = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return luma.round().astype(np.uint8)[..., None]


def _from_files(
    name: str,
    root: Path,
    paths: tuple[Path, ...],
    size: tuple[int, int] | None,
    colour: bool | None,
    skip_bad: bool,
) -> Images:
    good: list[Path] = []
    skipped: list[str] = []
    sizes: Counter[tuple[int, int]] = Counter()
    coloured = 0
    for path in paths:
        try:
            pixels = read_image(path)
        except DataError as err:
            if not skip_bad:
                raise DataError(f"{err}{OR_SKIP}") from err
            skipped.append(str(err))
            continue
        good.append(path)
        sizes[pixels.shape[0], pixels.shape[1]] += 1
        coloured += pixels.shape[2] == 3
    if not good:
        raise DataError(
            skipped[0]
            if root == paths[0]
            else f"{name}: no image that can be read; the first is {skipped[0]}"
        )
    size = size or _common_size(sizes)
    channels = 3 if (coloured if colour is None else colour) else 1
    pixels = _array((len(good), *size, channels))
    digest = sha256()
    for row, path in enumerate(good):
        pixels[row] = fit(read_image(path), size, channels)
        digest.update(str(path.relative_to(root) if path != root else path.name).encode())
        digest.update(sha256(path.read_bytes()).digest())
    folders = [path.relative_to(root).parts[:-1] for path in good if path != root]
    labels = [parts[0] if parts else "" for parts in folders]
    if "" in labels and any(labels):
        stray = good[labels.index("")]
        raise DataError(f"{stray}: lies beside the folders; move it into the folder of its label")
    return Images(
        name,
        pixels,
        labels if any(labels) else [],
        tuple(str(path) for path in good),
        digest.hexdigest(),
        _notes(sizes, size, coloured, channels),
        tuple(skipped),
    )


def read_image(path: Path) -> Pixels:
    """One image, (H, W, C): grey unless it has colours; on white where it is transparent.

    Raises:
        DataError: If it is none, or broken.
    """
    from PIL import Image, ImageOps

    with _named(path), Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16 bits of grey; Pillow would clip them
            deep = np.asarray(image, dtype=np.int64)
            return (deep.clip(0, 65535) // 257).astype(np.uint8)[..., None]
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            clear = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
        if image.mode in ("1", "L"):
            return np.asarray(image.convert("L"))[..., None]
        pixels = np.asarray(image.convert("RGB"))
    grey = (pixels == pixels[..., :1]).all()
    return pixels[..., :1] if grey else pixels


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what Pillow says of a broken image into one line that names it."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata, of no account here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such image") from err
    except (
        *(OSError, SyntaxError, ValueError, EOFError),
        *(Image.DecompressionBombError, Image.DecompressionBombWarning),
    ) as err:
        detail = " ".join(str(err).replace(f" {str(path)!r}", "").split()) or type(err).__name__
        raise DataError(f"{path}: not an image, or a broken one ({detail})") from err


def _common_size(sizes: Counter[tuple[int, int]]) -> tuple[int, int]:
    """The commonest size, the larger one of two as common, at most LARGEST a side."""
    height, width = max(sizes, key=lambda size: (sizes[size], size))
    scale = min(1.0, LARGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _notes(
    sizes: Counter[tuple[int, int]], size: tuple[int, int], coloured: int, channels: int
) -> tuple[str, ...]:
    notes = []
    total = sum(sizes.values())
    if others := total - sizes[size]:
        smallest, largest = min(sizes), max(sizes)
        found = f"{smallest[0]}x{smallest[1]}"
        found += f" to {largest[0]}x{largest[1]}" if largest != smallest else ""
        notes.append(f"{others:,} of {total:,} images ({found}) resized to {size[0]}x{size[1]}")
    if channels == 1 and coloured:
        notes.append(f"{coloured:,} of {total:,} images turned from colour to grey")
    if channels == 3 and coloured < total:
        notes.append(f"{total - coloured:,} of {total:,} images are grey among coloured ones")
    return tuple(notes)


def _array(shape: tuple[int, ...]) -> Pixels:
    """Room for pixels, in memory or, for many, in a nameless temporary file."""
    if np.prod(shape, dtype=np.int64) <= MEMORY_BYTES:
        return np.zeros(shape, dtype=np.uint8)
    with TemporaryFile() as file:  # the map keeps it
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)


def _image_paths(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def _is_idx(path: Path) -> bool:
    """Whether a name is that of an idx file of images: train-images-idx3-ubyte.gz, x.idx3."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return "idx3" in name or "idx4" in name or name.endswith(".idx")


def _idx_images(root: Path) -> Path | None:
    found = sorted(path for path in root.iterdir() if _is_idx(path))
    return next((path for path in found if "train" in path.name.lower()), next(iter(found), None))


def _from_idx(name: str, path: Path, size: tuple[int, int] | None, colour: bool | None) -> Images:
    pixels, digest = _idx(str(path))
    if pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3)):
        raise DataError(
            f"{path}: an idx file of shape {_shape(pixels)}; images need count x height x width, "
            "or that x 3 for colour"
        )
    pixels = pixels.reshape(*pixels.shape[:3], -1)
    count, height, width, channels = pixels.shape
    labels: list[str] = []
    beside = _labels_beside(path)
    if beside is not None:
        numbers, label_digest = _idx(str(beside))
        if numbers.shape != (count,):
            raise DataError(
                f"{beside}: {_shape(numbers)} labels for the {count:,} images of {path.name}; "
                "the two files do not belong together"
            )
        labels = [str(number) for number in numbers.tolist()]
        digest += label_digest
    sizes = Counter({(height, width): count})
    size = size or _common_size(sizes)
    wanted = channels if colour is None else 3 if colour else 1
    if (size, wanted) != ((height, width), channels):
        source, pixels = pixels, _array((count, *size, wanted))
        for row, image in enumerate(source):
            pixels[row] = fit(image, size, wanted)
    coloured = count if channels == 3 else 0
    notes = _notes(sizes, size, coloured, wanted)
    return Images(name, pixels, labels, (), sha256(digest.encode()).hexdigest(), notes)


def _labels_beside(path: Path) -> Path | None:
    """The file of labels that belongs to one of images, by its name, packed or not."""
    name = path.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    for packed in PACKED:
        name = name.removesuffix(packed)
    for suffix in ("", *PACKED):
        beside = path.with_name(name + suffix)
        if beside != path and beside.is_file():
            return beside
    return None


def _idx(source: str) -> tuple[Pixels, str]:
    """The array in an idx file of bytes, and the file's fingerprint.

    Format: two zero bytes, the code of the type, the number of axes, the length of each as four
    bytes, most significant first, then the values (LeCun, Cortes & Burges, the MNIST database).

    Raises:
        DataError: If it is not such a file, or not whole.
    """
    files: TextFiles = open_text(source, encoding="latin-1", binary_ok=True)
    blob = b"".join(files.blocks(files.paths[0] if files.paths else None))
    axes = blob[3] if len(blob) > 3 else 0
    if blob[:2] != b"\0\0" or not 1 <= axes <= 4 or len(blob) < 4 + 4 * axes:
        raise DataError(f"{source}: not an idx file; it begins with the bytes {blob[:4].hex(' ')}")
    if blob[2] != _IDX_BYTES:
        raise DataError(f"{source}: an idx file of type 0x{blob[2]:02x}; needed are bytes, 0x08")
    shape = np.frombuffer(blob, ">u4", axes, offset=4).astype(np.int64)
    values = np.frombuffer(blob, np.uint8, offset=4 + 4 * axes)
    # As Python numbers: a product of four sides may be more than 64 bits hold.
    if len(values) != math.prod(shape.tolist()) or not len(values):
        raise DataError(
            f"{source}: {len(values):,} bytes of pixels or labels, but its header announces "
            f"{' x '.join(map(str, shape))}; copy or download it again"
        )
    return values.reshape(shape), files.sha256()


def _shape(array: npt.NDArray[Any]) -> str:
    return " x ".join(f"{side:,}" for side in array.shape)


def _known() -> str:
    return ", ".join(SUFFIXES[:7]) + " and idx files"
