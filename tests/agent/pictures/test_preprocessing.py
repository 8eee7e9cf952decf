"""What a network is given of a picture."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agent.checkpoints.header import read_header
from agent.networks.vision_shape import VisionShape
from agent.pictures.preprocessing import FILE, Preprocessing
from search.errors import CheckpointError
from tests.agent.networks.pictured import write_llava


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_llava(tmp_path / "p")


def shape_of(path: Path) -> VisionShape:
    found = read_header(path).architecture.vision
    assert found is not None
    return found


def changed(path: Path, **values: Any) -> None:
    said = json.loads((path / FILE).read_text()) | values
    (path / FILE).write_text(json.dumps(said))


def test_pixels_are_those_of_transformers_own_processor(path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = Preprocessing.of(path, shape_of(path))
    theirs = transformers.SiglipImageProcessor(**ours.as_json())
    raw = np.random.default_rng(0).integers(0, 256, (16, 64, 3), dtype=np.uint8)
    coloured = Image.fromarray(raw, "RGB")
    three = Preprocessing(16, 64, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 2)
    wanted = transformers.SiglipImageProcessor(**three.as_json())
    found = wanted(images=coloured, return_tensors="pt")["pixel_values"][0]
    assert three.pixels(coloured).numpy() == pytest.approx(found.numpy(), abs=1e-5)
    assert theirs.size["height"] == 16 and theirs.size["width"] == 64


def test_another_size_is_resized_and_colour_becomes_grey(path: Path) -> None:
    ours = Preprocessing.of(path, shape_of(path))
    found = ours.pixels(Image.new("RGB", (128, 32), (255, 255, 255)))
    assert found.shape == (1, 16, 64)
    assert found.numpy() == pytest.approx(np.ones((1, 16, 64)), abs=0.02)


def test_without_the_file_pictures_are_square(path: Path) -> None:
    (path / FILE).unlink()
    assert Preprocessing.of(path, shape_of(path)) == Preprocessing(32, 32, (0.5,), (0.5,), 3)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"size": {"height": 16, "width": 32}}, "not 16 patches of 8"),
        ({"size": {"height": 17, "width": 64}}, "not 16 patches of 8"),
        ({"size": {"height": "16", "width": 64}}, "has size"),
        ({"image_mean": [0.5, 0.5, 0.5]}, "for 1 channels"),
        ({"image_std": [0.0]}, "make it positive"),
        ({"image_std": ["x"]}, "for 1 channels"),
        ({"resample": 99}, "has resample 99"),
        ({"do_normalize": False}, "has do_normalize False"),
        ({"do_center_crop": True}, "has do_center_crop True"),
        ({"rescale_factor": 1.0}, "has rescale_factor 1.0"),
    ],
)
def test_a_file_that_does_not_fit_the_tower_is_refused(
    path: Path, values: dict[str, Any], told: str
) -> None:
    changed(path, **values)
    with pytest.raises(CheckpointError) as raised:
        Preprocessing.of(path, shape_of(path))
    assert told in raised.value.message + raised.value.fix
