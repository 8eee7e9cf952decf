"""Problems in words that begin with pictures: `[picture DIGEST]`, a line each, then the question.

So a problem's text says all of it: two questions about two pictures are two problems, and whoever
reads the store finds the files by their names.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.networks.pictures import DIGITS
from agent.pictures.files import PREFIX, picture_at, picture_of_text
from agent.pictures.folder import PictureFolder
from search.errors import TaskError

MARK = re.compile(rf"\[picture ([0-9a-f]{{{DIGITS}}})\]\n")
MOST = 8
"""Pictures of one problem."""


def marked(digests: Sequence[str], words: str) -> str:
    """The text of a problem with these pictures."""
    return "".join(f"[picture {digest}]\n" for digest in digests) + words


def picture_parts(text: str) -> tuple[tuple[str, ...], str]:
    """The digests that a problem's text begins with, and its words."""
    digests = []
    while (found := MARK.match(text)) is not None:
        digests.append(found[1])
        text = text[found.end() :]
    return tuple(digests), text


def pictures_of_row(row: dict[str, Any], file: Path, folder: PictureFolder) -> list[str]:
    """The pictures of a row, kept in the folder: `image` or `images`, each a path below the file's
    own folder or a data URL. Raises TaskError for one that cannot be used."""
    given = [row[key] for key in ("image", "images") if key in row]
    listed = [one for value in given for one in (value if isinstance(value, list) else [value])]
    if len(listed) > MOST:
        raise TaskError(f"the row has {len(listed)} pictures, more than {MOST}", "give fewer")
    found = []
    for one in listed:
        if not isinstance(one, str) or not one:
            raise TaskError(
                f"a picture is {one!r:.80}", "write its path, or data:image/png;base64,..."
            )
        is_data = one.startswith(PREFIX)
        image = picture_of_text(one) if is_data else picture_at(one, file.parent)
        found.append(folder.put(image))
    return found
