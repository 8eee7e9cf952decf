"""From a picture to the pixels that a network takes, as preprocessor_config.json beside it says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from agent.checkpoints.checkpoint import Checkpoint
from agent.checkpoints.files import read_json
from agent.networks.language_model import LanguageModel
from agent.networks.llava import LlavaModel
from agent.networks.vision_shape import VisionShape
from agent.pictures.folder import PictureFolder
from search.errors import CheckpointError

FILE = "preprocessor_config.json"
COMPUTED = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_center_crop": False,
    "do_pad": False,
}
"""Keys of the file that must say this where they are there."""
RESAMPLING = {0, 1, 2, 3, 4, 5}
"""Pillow's filters, as transformers writes them."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resize to `height` by `width`, to [0, 1], then less `mean` over `std`."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = 3

    @classmethod
    def of(cls, path: Path, shape: VisionShape) -> "Preprocessing":
        """Of a checkpoint's folder; without the file SigLIP's own values. Raises CheckpointError
        where the picture would not have the patches that the tower has places for."""
        said = read_json(path, FILE) if (path / FILE).is_file() else {}
        for key, wanted in COMPUTED.items():
            if said.get(key, wanted) != wanted:
                raise CheckpointError(
                    f"{path / FILE} has {key} {said[key]!r:.60}, which is not computed",
                    f"only {wanted!r} is: prepare the pictures so, or use another checkpoint",
                )
        factor = said.get("rescale_factor", 1 / 255)
        if type(factor) not in (int, float) or abs(factor - 1 / 255) > 1e-9:
            raise CheckpointError(
                f"{path / FILE} has rescale_factor {factor!r:.60}, and 1/255 alone is computed",
                "use another checkpoint",
            )
        size = said.get("size") or {"height": shape.image_size, "width": shape.image_size}
        height, width = (_side(path, size, name) for name in ("height", "width"))
        patch = shape.patch_size
        if (
            height % patch
            or width % patch
            or (height // patch) * (width // patch) != shape.num_tokens
        ):
            raise CheckpointError(
                f"{path / FILE} has pictures of {height} by {width}, which are not "
                f"{shape.num_tokens} patches of {patch}",
                "give the file that belongs to the weights",
            )
        resample = said.get("resample", 3)
        if resample not in RESAMPLING or type(resample) is not int:
            raise CheckpointError(f"{path / FILE} has resample {resample!r:.40}", "write 3")
        mean, std = (_per_channel(path, said, f"image_{name}", shape) for name in ("mean", "std"))
        if min(std) <= 0:
            raise CheckpointError(f"{path / FILE} has image_std {std}", "make it positive")
        return cls(height, width, mean, std, resample)

    def pixels(self, image: Image.Image) -> Tensor:
        """Float32 [C, H, W]."""
        image = image.convert("L" if len(self.mean) == 1 else "RGB")
        if image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), Image.Resampling(self.resample))
        raw = np.asarray(image, dtype=np.float32).reshape(self.height, self.width, -1)
        values = torch.from_numpy(raw.copy()).permute(2, 0, 1) / 255.0
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        return ((values - mean) / std).contiguous()

    def as_json(self) -> dict[str, Any]:
        """The file, as transformers' SiglipImageProcessor reads it."""
        return {
            "image_processor_type": "SiglipImageProcessor",
            "do_resize": True,
            "size": {"height": self.height, "width": self.width},
            "resample": self.resample,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


@dataclass(frozen=True, slots=True)
class FolderPixels:
    """Pixels by digest from a folder: what a network that reads pictures is given."""

    folder: PictureFolder
    preprocessing: Preprocessing

    def __call__(self, digest: str) -> Tensor:
        return self.preprocessing.pixels(self.folder.get(digest))


def give_pictures(model: LanguageModel, checkpoint: Checkpoint, folder: str) -> None:
    """Tell a network that reads pictures where they are; nothing happens to another one."""
    shape = checkpoint.architecture.vision
    if isinstance(model, LlavaModel) and shape is not None and folder:
        preprocessing = Preprocessing.of(checkpoint.whole.path, shape)
        model.source = FolderPixels(PictureFolder(Path(folder)), preprocessing)


def _side(path: Path, size: Any, name: str) -> int:
    value = size.get(name, size.get("shortest_edge")) if isinstance(size, Mapping) else size
    if type(value) is not int or not 1 <= value <= 16_384:
        raise CheckpointError(
            f"{path / FILE} has size {size!r:.80}", "write height and width in whole pixels"
        )
    return value


def _per_channel(
    path: Path, said: Mapping[str, Any], name: str, shape: VisionShape
) -> tuple[float, ...]:
    value = said.get(name, 0.5)
    values = value if isinstance(value, list) else [value] * shape.num_channels
    is_right = len(values) == shape.num_channels and all(
        type(v) in (int, float) and -1e3 < v < 1e3 for v in values
    )
    if not is_right:
        raise CheckpointError(
            f"{path / FILE} has {name} {value!r:.80} for {shape.num_channels} channels",
            "give the file that belongs to the weights",
        )
    return tuple(float(v) for v in values)
