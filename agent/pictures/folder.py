"""Pictures by the digest of their pixels, one PNG each, in a folder that all hosts see."""

import contextlib
import hashlib
import os
import uuid
from pathlib import Path

from PIL import Image

from agent.networks.pictures import DIGITS
from agent.pictures.files import picture_at
from search.errors import TaskError
from store.disks import unwritable


def digest_of(image: Image.Image) -> str:
    """Of mode, size and pixels, 124 bits in hexadecimal."""
    raw = f"{image.mode} {image.width} {image.height}\0".encode() + image.tobytes()
    return hashlib.sha256(raw).hexdigest()[:DIGITS]


class PictureFolder:
    """Writes each picture once. A file is written under another name and renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, image: Image.Image) -> str:
        """Keep a plain picture (`files.plain`); its digest. Raises ResourceError."""
        digest = digest_of(image)
        file = self.file_of(digest)
        if file.is_file() and file.stat().st_size:
            return digest
        scratch = file.with_name(f".{uuid.uuid4().hex}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with scratch.open("xb") as stream:
                image.save(stream, format="PNG")
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(scratch, file)
        except OSError as error:
            size = image.width * image.height
            raise unwritable(self.path, "a picture", error, "hosting.pictures", size) from error
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
        return digest

    def file_of(self, digest: str) -> Path:
        """Where the picture of a digest is, or would be. Raises TaskError for what is no digest."""
        if len(digest) != DIGITS or not set(digest) <= set("0123456789abcdef"):
            raise TaskError(f"{digest[:40]!r} is no digest of a picture", "give its file")
        return self.path / digest[:2] / f"{digest}.png"

    def get(self, digest: str) -> Image.Image:
        """Raises TaskError for a picture that is not there, or is another one by now."""
        file = self.file_of(digest)
        if not file.is_file():
            raise TaskError(
                f"picture {digest} is not in {self.path}",
                "name the folder that it was kept in: hosting.pictures",
            )
        image = picture_at(file)
        if digest_of(image) != digest:
            raise TaskError(
                f"{file} is not the picture that its name says", "restore it, or remove it"
            )
        return image
