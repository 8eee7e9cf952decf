"""Files from outside that claim to be pictures: what is refused before a pixel is decoded.

What is taken comes out as plain pixels, grey or colour, with nothing else of the file: no EXIF, no
profile, no comment. Its orientation is applied first.
"""

import base64
import binascii
import io
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from search.errors import TaskError

MAX_BYTES = 20_000_000
MAX_PIXELS = 40_000_000
MAX_SIDE = 16_384
FORMATS = ("PNG", "JPEG", "WEBP")
PREFIX = "data:image/"
"""What a picture in the row itself begins with."""


def picture_at(name: str | Path, folder: Path | None = None) -> Image.Image:
    """The picture of a file. Raises TaskError for a path that leaves `folder`, for what is no file,
    and for what `picture_in` refuses."""
    told = str(name)
    if "://" in told:
        raise TaskError(
            f"picture {told[:200]!r} is an address, and none is fetched",
            "download it and give its path",
        )
    try:
        whole = (folder / name if folder is not None else Path(name)).resolve()
        if folder is not None and not whole.is_relative_to(folder.resolve()):
            raise TaskError(
                f"picture {told[:200]!r} lies outside of {folder}",
                "keep pictures below the folder of the file that names them",
            )
        if not whole.is_file():
            raise TaskError(f"picture {told[:200]!r} is no file", "correct its path")
        size = whole.stat().st_size
        if size > MAX_BYTES:
            raise _large(told, f"{size:,} bytes, over {MAX_BYTES:,}")
        data = whole.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL, a loop of links
        raise TaskError(f"picture {told[:200]!r} cannot be read: {error}", "correct it") from error
    return picture_in(data, told)


def picture_of_text(text: str) -> Image.Image:
    """The picture of a data URL. Raises TaskError."""
    head, comma, body = text.partition(",")
    if not comma or not head.startswith(PREFIX) or not head.endswith(";base64"):
        raise TaskError(
            f"picture {text[:40]!r} is no path and no data URL",
            "write data:image/png;base64,... or a path",
        )
    if len(body) > MAX_BYTES * 4 // 3 + 4:
        raise _large("of a data URL", f"over {MAX_BYTES:,} bytes")
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise TaskError("a picture's base64 is broken", "encode it again") from error
    return picture_in(data, "of a data URL")


def picture_in(data: bytes, told: str) -> Image.Image:
    """The picture of a file's bytes, as mode L or RGB. Raises TaskError for one that is broken, too
    large, moving, in printers' colours, or of another format than `FORMATS`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                _check(opened, told)
                opened.load()
                turned = ImageOps.exif_transpose(opened)
                return plain(turned)
    except UnidentifiedImageError as error:
        raise TaskError(
            f"picture {told[:200]!r} is none of {', '.join(FORMATS)}", "save it as PNG"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _large(told, f"more than {MAX_PIXELS:,} pixels") from error
    except TaskError:
        raise
    except Exception as error:  # decoders raise what they like at broken data
        raise TaskError(
            f"picture {told[:200]!r} is broken: {type(error).__name__}: {error!s:.200}",
            "save it again",
        ) from error


def plain(image: Image.Image) -> Image.Image:
    """Grey (L) or colour (RGB), on white where it is transparent, and nothing beside the pixels."""
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        behind = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
    if image.mode in ("1", "L"):
        image = image.convert("L")
    elif image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        image = image.convert("I").point(lambda v: v / 256).convert("L")
    else:
        image = image.convert("RGB")
    found = Image.new(image.mode, image.size)
    found.paste(image)
    return found


def _check(image: Image.Image, told: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE or min(width, height) < 1:
        raise _large(told, f"{width:,} by {height:,} pixels, over {MAX_PIXELS:,} or {MAX_SIDE:,}")
    if getattr(image, "n_frames", 1) > 1:
        raise TaskError(
            f"picture {told[:200]!r} moves: it has {getattr(image, 'n_frames', 1)} frames",
            "save one frame as PNG",
        )
    if image.mode in ("CMYK", "YCCK", "LAB"):
        raise TaskError(
            f"picture {told[:200]!r} is in {image.mode}, printers' colours", "save it as RGB"
        )


def _large(told: str, what: str) -> TaskError:
    return TaskError(f"picture {told[:200]!r} is too large: {what}", "scale it down")
