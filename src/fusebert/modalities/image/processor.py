"""A picture file -> uint8 pixels of one size. Real files of every common kind, decoded within fixed bounds."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from fusebert.errors import InputError
from fusebert.modalities.base import Collated
from fusebert.modalities.files import (
    PICTURE_SUFFIXES,
    DecodedFiles,
    are_sounds,
    contents_of,
    encoded_media,
    files_in,
    files_of,
    media_of,
)
from fusebert.section import FITTED, Section
from fusebert.storage import read_json, write_json
from fusebert.types import Evidence, Features, Sample

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
MAX_SCANS = 100
"""Of a JPEG; each of its scans paints all of the picture again."""
MAX_STRIPS = 100_000
"""Of a TIFF, whose header may say to decode the same bytes again and again."""
BIG_TIFF, STRIP_OFFSETS, TILE_OFFSETS = 43, 273, 324
BYTES_IN_TIFF = 1, 2, 7
"""Kinds of entries that are read as bytes or text, but for offsets."""
DIRECTORIES = 34665, 34853, 40965
"""Entries of a TIFF that lead to further ones, of the camera and the place; Pillow would read them whole."""
TWELVE_BITS = 4095.0

Positive = Annotated[float, Field(gt=0)]


class Config(Section):
    """How pictures are read and which network turns them into tokens."""

    encoder: str = Field(
        "conv", description="conv, patch, vgg16, or a vision model of transformers: a Hub id or a folder"
    )
    size_pixels: int = Field(
        64,
        ge=16,
        le=1024,
        description="side of the square that pictures are resized to; where not set, a published model's own",
    )
    patch_pixels: int = Field(
        16, ge=2, le=128, description="side of the square that becomes one token (conv and patch)"
    )
    width: int = Field(32, ge=4, le=512, description="channels of the first layer of conv; they double at each halving")
    weights: Path | None = Field(None, description="safetensors file with published weights (vgg16)")
    frozen: bool = Field(False, description="keep the encoder's weights as they are; its projection still learns")
    augment: bool = Field(False, description="in training, move and zoom pictures a little")
    mean: tuple[float, float, float] = Field(
        (0.5, 0.5, 0.5), description="of pixels in [0, 1], by channel; where not set, a published model's own"
    )
    std: tuple[Positive, Positive, Positive] = Field(
        (0.5, 0.5, 0.5), description="of pixels in [0, 1], by channel; where not set, a published model's own"
    )
    backbone: dict[str, Any] = Field({}, json_schema_extra=FITTED, description="the vision model's own configuration")

    @property
    def tokens(self) -> int:
        """Tokens one picture becomes."""
        if self.backbone:
            return int(self.backbone["fusebert_tokens"])
        return (self.size_pixels // self.cell_pixels) ** 2

    @property
    def cell_pixels(self) -> int:
        """Side of the square of pixels behind one token."""
        return 32 if self.encoder == "vgg16" else self.patch_pixels


class Processor:
    """Reads the picture columns of a row; several columns share one encoder and keep their places."""

    def __init__(self, config: Config, columns: Sequence[str]) -> None:
        self.config, self.columns = config, tuple(columns)
        self.files = DecodedFiles()

    def __getstate__(self) -> dict[str, Any]:
        """Copies, also those for worker processes, remember no file."""
        return self.__dict__ | {"files": DecodedFiles()}

    @classmethod
    def fit(cls, config: Config, columns: Sequence[str], samples: Iterable[Sample], pretrained: Path | None) -> Self:
        return cls(config, columns)

    def load(self, sample: Sample) -> Features | None:
        """`pixel_values`: object[K] of uint8[3, H, W], one for each picture of each column; `place`: int64[K]."""
        parts = files_in(sample.values, self.columns)
        if not parts:
            return None
        pictures = np.empty(len(parts), dtype=object)
        for number, (_, value) in enumerate(parts):
            pictures[number] = self._read(value, sample.root)
        return {"pixel_values": pictures, "place": np.array([place for place, _ in parts])}

    def _read(self, value: Any, root: Path | None) -> np.ndarray:
        value = media_of(value)
        if not isinstance(value, str | Path):
            return decode(value, self.config.size_pixels)
        size = self.config.size_pixels
        return self.files.read(str(value), root, MAX_FILE_BYTES, lambda data: decode(data, size))

    @staticmethod
    def content(value: Any, root: Path | None) -> list[str]:
        """What tells a picture from others: the bytes of its files, whatever they are called."""
        return contents_of(value, root)

    def length(self, features: Features) -> int:
        return self.config.tokens * len(features["place"])

    def collate(self, rows: Sequence[Features]) -> Collated:
        """`pixel_values` uint8[U, 3, H, W], each different picture once; `picture`, `place` int64[K] for its K uses."""
        different: dict[int, np.ndarray] = {}
        for row in rows:
            for pixels in row["pixel_values"]:
                different.setdefault(id(pixels), pixels)
        number = {key: index for index, key in enumerate(different)}
        return {
            "pixel_values": np.stack(list(different.values())),
            "picture": np.array([number[id(pixels)] for row in rows for pixels in row["pixel_values"]]),
            "place": np.concatenate([row["place"] for row in rows]),
        }

    def save(self, folder: Path) -> None:
        saved = {"columns": self.columns, "config": self.config.model_dump(mode="json")}
        write_json(folder / "processors" / "image.json", saved)

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        saved = read_json(folder / "processors" / "image.json")
        return cls(Config(**saved["config"]), saved["columns"])


def matches(values: Sequence[Any]) -> Evidence | None:
    """A column of picture paths, of encoded pictures, or of Pillow images; or of lists of them."""
    values = [file for value in values for file in files_of(value)]
    paths = [value for value in values if isinstance(value, str) and value.lower().endswith(PICTURE_SUFFIXES)]
    if len(paths) > len(values) / 2:
        return Evidence(
            f"{len(paths)} of {len(values)} values end in a picture suffix", 0.99 * len(paths) / len(values)
        )
    others = [value for value in values if not isinstance(value, Image.Image)]
    if not values:
        return None
    encoded = encoded_media(others)
    if not others or (encoded and not are_sounds(encoded)):
        return Evidence("encoded pictures", 0.95)
    return None


def decode(value: Any, size_pixels: int) -> np.ndarray:
    """A picture -> uint8[3, size_pixels, size_pixels], upright, on white, stretched to the square.

    Args:
        value: encoded bytes, `{"bytes": ...}` as in datasets, a Pillow image, or uint8[H, W, 3].

    Raises:
        InputError: in words, for anything that is not a whole picture within bounds.
    """
    if isinstance(value, dict):
        value = value.get("bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the bounds below are ours, and damaged metadata is no reason to fail
            if isinstance(value, Image.Image):
                picture = ImageOps.exif_transpose(_bounded(value))  # a copy: it is the caller's own
            else:
                picture = open_picture(value)
                picture.draft("RGB", (2 * size_pixels, 2 * size_pixels))  # a JPEG is decoded at about that size
                ImageOps.exif_transpose(picture, in_place=True)
            picture = _square(picture, size_pixels)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"the picture is too large: {error}") from None
    except UnidentifiedImageError:
        if isinstance(value, bytes) and value.startswith((b"II", b"MM")):
            raise InputError("a TIFF that is damaged, or not of grey, RGB or CMYK in 8 bits, or grey in 16") from None
        raise InputError(f"not a picture of a known kind ({', '.join(FORMATS)})") from None
    except Exception as error:  # a decoder may raise anything over damaged bytes
        raise InputError(f"the picture is damaged: {error}") from None
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def _bounded(picture: Image.Image) -> Image.Image:
    """The picture, whose pixels are not decoded yet. Raises InputError where they are too many, or none."""
    if not picture.width * picture.height:
        raise InputError("the picture has no pixels")
    if picture.width * picture.height > MAX_PIXELS:
        raise InputError(f"the picture has {picture.width} x {picture.height} pixels; at most {MAX_PIXELS:,} are read")
    return picture


def open_picture(value: Any) -> Image.Image:
    """Encoded bytes, or an array, as a picture within bounds, not decoded yet. Raises InputError, or as Pillow does."""
    return _bounded(_open(value))


def _open(data: Any) -> Image.Image:
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.ndim not in (2, 3) or data.shape[2:] not in ((), (3,), (4,)) or not data.size:
            raise InputError(f"a picture as an array is uint8[H, W, 3], not {data.dtype}{list(data.shape)}")
        return Image.fromarray(data)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InputError(
            f"a picture expected (a path, encoded bytes, a Pillow image, uint8[H, W, 3]), found {type(data).__name__}"
        )
    if len(data) == 0:
        raise InputError("the file is empty")
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"the picture has more than {MAX_FILE_BYTES >> 20} MiB")
    data = bytes(data)
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda\x00") > MAX_SCANS:
        raise InputError(f"the picture is a JPEG of more than {MAX_SCANS} scans")
    if _strips(data) > MAX_STRIPS:
        raise InputError(f"the picture is a TIFF of more than {MAX_STRIPS:,} strips")
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    if picture.format == "TIFF":
        boxes = [tile[1] or (0, 0, *picture.size) for tile in picture.tile]
        pixels = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
        if pixels > len(picture.getbands()) * picture.width * picture.height:
            raise InputError("the picture is a TIFF whose strips hold more than the picture")
        for entry in DIRECTORIES:
            picture.getexif().pop(entry, None)
    return picture


def _strips(data: bytes) -> int:
    """How many values the longest entry of a TIFF's first directory has; 0 for other files.

    That is the list of its strips or tiles, or a lie that would cost as much: Pillow makes a Python number of each.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return 0
    is_big = data[2] == BIG_TIFF  # as Pillow tells them apart
    at, kinds = (8, ("Q", "Q", "HHQ8x")) if is_big else (4, ("L", "H", "HHL4x"))
    place, count, entry = (struct.Struct(order + kind) for kind in kinds)
    (start,) = place.unpack_from(data, at)
    if start + count.size > len(data):
        return 0
    (entries,) = count.unpack_from(data, start)
    first = start + count.size
    last = min(first + entries * entry.size, len(data) - entry.size + 1)
    found = (entry.unpack_from(data, offset) for offset in range(first, last, entry.size))
    counts = (size for tag, kind, size in found if kind not in BYTES_IN_TIFF or tag in (STRIP_OFFSETS, TILE_OFFSETS))
    return int(max(entries, *counts, 0))


def _square(picture: Image.Image, size_pixels: int) -> Image.Image:
    """RGB, stretched to the square, on white; it is laid there once it is small."""
    is_clear = picture.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in picture.info
    picture = eight_bits(picture).convert("RGBA" if is_clear else "RGB")
    picture = picture.resize((size_pixels, size_pixels), Image.Resampling.BICUBIC)
    if is_clear:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (255, 255, 255, 255)), picture)
    return picture.convert("RGB")


def eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit greys over their full range, or that of 12 bits where they use no more; anything wider, or with fractions,
    over the range it uses; else as it is.

    Raises:
        InputError: there are values that are not finite.
    """
    if not picture.mode.startswith("I") and picture.mode != "F":
        return picture
    values = np.array(picture, dtype=np.float32)
    low, high = float(values.min()), float(values.max())
    if picture.mode.startswith("I;16"):  # X-rays have 12 bits
        low, high = 0.0, 65535.0 if high > TWELVE_BITS else TWELVE_BITS
    if not np.isfinite(high - low):
        raise InputError("the picture holds values that are not finite numbers")
    values -= low  # in place: 50 million pixels are 200 MB
    values *= 255 / max(high - low, 1e-9)
    return Image.fromarray(values.round(out=values).clip(0, 255, out=values).astype(np.uint8), "L")
