"""Files that claim to be pictures: what is taken, what is refused, and that by name."""

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agent.pictures import files
from agent.pictures.files import picture_at, picture_in, picture_of_text
from agent.pictures.folder import PictureFolder, digest_of
from search.errors import TaskError


def png(image: Image.Image, **more: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG", **more)  # type: ignore[arg-type]
    return out.getvalue()


def noise(mode: str = "L", size: tuple[int, int] = (12, 7)) -> Image.Image:
    raw = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(raw, "RGB").convert(mode)


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [("L", "L"), ("1", "L"), ("RGB", "RGB"), ("P", "RGB"), ("RGBA", "RGB"), ("LA", "RGB")],
)
def test_pixels_come_out_grey_or_coloured_whatever_they_were_stored_as(
    mode: str, wanted: str
) -> None:
    found = picture_in(png(noise(mode)), "x")
    assert (found.mode, found.size) == (wanted, (12, 7))


def test_sixteen_bits_come_out_as_eight() -> None:
    raw = np.array([[0, 256, 65_535]], dtype=np.uint16)
    found = picture_in(png(Image.fromarray(raw)), "x")
    assert np.asarray(found).tolist() == [[0, 1, 255]]


def test_what_is_transparent_is_white() -> None:
    found = picture_in(png(Image.new("RGBA", (2, 2), (0, 0, 0, 0))), "x")
    assert found.getpixel((0, 0)) == (255, 255, 255)


def test_orientation_is_applied_and_nothing_of_the_file_is_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where I live"
    out = io.BytesIO()
    noise("RGB").save(out, format="JPEG", exif=exif, comment=b"secret")
    found = picture_in(out.getvalue(), "x")
    assert found.size == (7, 12)
    folder = PictureFolder(tmp_path)
    kept = folder.file_of(folder.put(found)).read_bytes()
    assert b"where I live" not in kept and b"secret" not in kept and b"Exif" not in kept


def huge(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is this large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def moving(kind: str) -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(out, format=kind, save_all=True, append_images=frames[1:])
    return out.getvalue()


def in_format(kind: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    noise(mode).save(out, format=kind)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "none of PNG, JPEG, WEBP"),
        (b"not a picture", "none of PNG, JPEG, WEBP"),
        (png(noise())[:60], "is broken"),
        (huge(50_000, 50_000), "too large"),
        (huge(20_000, 2), "too large: 20,000 by 2"),
        (moving("PNG"), "moves: it has 2 frames"),
        (moving("WEBP"), "moves: it has 2 frames"),
        (in_format("GIF"), "none of PNG, JPEG, WEBP"),
        (in_format("BMP"), "none of PNG, JPEG, WEBP"),
        (in_format("TIFF"), "none of PNG, JPEG, WEBP"),
        (in_format("PDF"), "none of PNG, JPEG, WEBP"),
        (in_format("JPEG", "CMYK"), "CMYK, printers' colours"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none of PNG, JPEG, WEBP"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(data: bytes, told: str) -> None:
    with pytest.raises(TaskError, match=told) as raised:
        picture_in(data, "cat.png")
    assert "cat.png" in raised.value.message and raised.value.fix


def test_paths_stay_below_their_folder_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for place in (tmp_path, inner):
        (place / "a.png").write_bytes(png(noise()))
    assert picture_at(Path("a.png"), inner).size == (12, 7)
    (inner / "link.png").symlink_to(tmp_path / "a.png")
    for name in ("../a.png", str(tmp_path / "a.png"), "link.png"):
        with pytest.raises(TaskError, match="lies outside of"):
            picture_at(Path(name), inner)
    with pytest.raises(TaskError, match="is an address, and none is fetched"):
        picture_at("https://example.com/a.png", inner)
    for name in ("no.png", "."):
        with pytest.raises(TaskError, match="is no file"):
            picture_at(Path(name), inner)
    with pytest.raises(TaskError, match="cannot be read"):
        picture_at(Path("x" * 5000), inner)
    monkeypatch.setattr(files, "MAX_BYTES", 50)
    with pytest.raises(TaskError, match="bytes, over 50"):
        picture_at(Path("a.png"), inner)


def test_a_picture_may_stand_in_the_row_itself() -> None:
    body = base64.b64encode(png(noise())).decode()
    assert digest_of(picture_of_text(f"data:image/png;base64,{body}")) == digest_of(noise())
    for text in ("a.png", "data:text/html;base64,AAAA", "data:image/png,AAAA"):
        with pytest.raises(TaskError, match="no path and no data URL"):
            picture_of_text(text)
    with pytest.raises(TaskError, match="base64 is broken"):
        picture_of_text("data:image/png;base64,!!!")


def test_a_folder_keeps_a_picture_once_and_gives_back_the_one_of_its_name(tmp_path: Path) -> None:
    folder = PictureFolder(tmp_path / "p")
    one, other = folder.put(noise()), folder.put(noise("RGB"))
    assert one == folder.put(noise()) == digest_of(noise()) != other
    assert len(list((tmp_path / "p").rglob("*"))) == 2 + len({one[:2], other[:2]})
    assert digest_of(folder.get(one)) == one
    folder.file_of(other).write_bytes(b"")
    assert digest_of(folder.get(folder.put(noise("RGB")))) == other
    folder.file_of(one).write_bytes(png(noise("L", (3, 3))))
    with pytest.raises(TaskError, match="is not the picture that its name says"):
        folder.get(one)
    with pytest.raises(TaskError, match="is not in"):
        folder.get("0" * 31)
    for name in ("../../etc/passwd", "0" * 30, "G" * 31):
        with pytest.raises(TaskError, match="is no digest"):
            folder.get(name)
