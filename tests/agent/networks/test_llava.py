"""Networks that read pictures: transformers' numbers and files, and the engine's rules."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.header import read_header
from agent.checkpoints.publish import publish
from agent.checkpoints.weights import load_model
from agent.engine.packed import packs
from agent.engine.requests import CompletionRequest, OptionRequest, ScoreRequest
from agent.hosting.model_host import CriticHost, HostSettings
from agent.hosting.policy_host import PolicyHost, Speculation
from agent.networks.llava import LlavaModel
from agent.networks.pictures import picture_tokens, pictures_in, whole_before, without_pictures
from agent.networks.registry import laid_out
from agent.networks.shapes import parameter_shapes
from agent.training.drafter import _can_go_on, cut_drafter
from search.errors import CheckpointError, TaskError
from tests.agent.networks.pictured import IMAGE, PLACES, VOCAB, kept_pictures, write_llava

WORDS = (3, 4)
PROMPT = (IMAGE,) * PLACES + WORDS
"""As transformers writes it."""


def shown(digest: str, *words: int) -> tuple[int, ...]:
    """A text that begins with a picture."""
    return (*picture_tokens(digest, PLACES, IMAGE), *words)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llava(tmp_path_factory.mktemp("llava") / "policy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def digests(folder: Path) -> list[str]:
    return kept_pictures(folder, 3)


@pytest.fixture(scope="module")
def host(folder: Path) -> PolicyHost:
    return PolicyHost("policy", HostSettings(pictures=str(folder)))


def transformers_logits(path: Path, ids: list[int], pixels: torch.Tensor) -> torch.Tensor:
    transformers = pytest.importorskip("transformers")
    model = transformers.LlavaForConditionalGeneration.from_pretrained(path).eval()
    with torch.no_grad():
        found: torch.Tensor = model(
            input_ids=torch.tensor([ids]), pixel_values=pixels, attention_mask=None
        ).logits[0]
    return found


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_logits_are_those_of_transformers(tmp_path: Path, layer: int, kind: str) -> None:
    path = write_llava(tmp_path / "p", seed=3, vision_feature_layer=layer)
    if kind == "qwen3":
        path = as_qwen3(path)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn((2, 1, 16, 64), generator=generator)
    ids = [5, *PROMPT, 6, *PROMPT, 7]
    want = transformers_logits(path, ids, pixels)
    model = load_model(verify_checkpoint(path))
    assert isinstance(model, LlavaModel)
    model.source = lambda digest: pixels[int(digest, 16)]
    placed = (5, *shown("0" * 31, *WORDS), 6, *shown("0" * 30 + "1", *WORDS), 7)
    with torch.no_grad():
        found = model.logits(model(torch.tensor([placed])))[0]
    assert found == pytest.approx(want, abs=1e-5)
    network = laid_out(model)
    assert network.reads_pictures


def as_qwen3(path: Path) -> Path:
    """The same directory with another language model, its weights new."""
    config = json.loads((path / "config.json").read_text())
    config["text_config"] |= {"model_type": "qwen3", "attention_bias": False}
    (path / "config.json").write_text(json.dumps(config))
    from agent.networks.architecture import Architecture

    torch.manual_seed(1)
    arch = Architecture.from_config(config)
    tensors = {
        name: torch.randn(shape) * 0.2 + (0.5 if len(shape) == 1 else 0.0)
        for name, shape in parameter_shapes(arch, False).items()
    }
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def older(name: str) -> str:
    return name.replace("vision_tower.", "vision_tower.vision_model.")


def internal(name: str) -> str:
    if name.startswith("language_model.model."):
        return name.replace("language_model.model.", "model.language_model.")
    return "model." + name


@pytest.mark.parametrize("renamed", [older, internal])
def test_all_three_layouts_of_names_are_read_alike(
    path: Path, tmp_path: Path, renamed: Any
) -> None:
    """And SigLIP's pooling, which nothing of ours reads, is passed over."""
    other = write_llava(tmp_path / "other")
    tensors = {renamed(k): v for k, v in load_file(path / "model.safetensors").items()}
    tensors[renamed("vision_tower.head.probe")] = torch.zeros(1, 1, 24)
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    want, found = (load_model(verify_checkpoint(p)) for p in (path, other))
    for (name, a), (_, b) in zip(want.named_parameters(), found.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_what_is_published_loads_in_transformers_with_the_same_logits(
    path: Path, tmp_path: Path
) -> None:
    parent = verify_checkpoint(path)
    model = load_model(parent)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    child = publish(model, parent, tmp_path, "policy", {})
    assert isinstance(model, LlavaModel)
    pixels = torch.randn((1, 1, 16, 64), generator=torch.Generator().manual_seed(1))
    model.source = lambda _: pixels[0]
    with torch.no_grad():
        want = model.logits(model(torch.tensor([shown("a" * 31, *WORDS)])))[0]
    assert transformers_logits(child.path, list(PROMPT), pixels) == pytest.approx(want, abs=1e-5)
    assert (child.path / "preprocessor_config.json").is_file()


def test_a_critic_of_it_is_read_back_as_one(path: Path, tmp_path: Path) -> None:
    parent = verify_checkpoint(path)
    critic = load_model(parent).as_critic()
    child = publish(critic, parent, tmp_path, "value", {})
    assert child.is_critic and child.architecture.vision is not None
    assert load_model(child).head.shape == (1, 32)


def test_two_pictures_behind_equal_placeholders_share_nothing(
    path: Path, host: PolicyHost, digests: list[str]
) -> None:
    """What would fail where all pictures had the same places: prefixes are kept by token ids."""
    ref = verify_checkpoint(path).ref("policy")
    one, other, _ = digests
    requests = [ScoreRequest(shown(d, 3, 4, 5, 6), 18) for d in (one, other, one)]
    first, second, third = host.logprobs(ref, requests)
    assert first == third != second
    engine = host._model(ref)
    tails = engine.tail_logprobs(requests)
    assert tails[0] == tails[2] != tails[1]
    assert tails == pytest.approx([sum(x) for x in (first, second, third)], abs=1e-5)
    rows = [shown(d, *WORDS) for d in (one, other, one)]
    logits = engine.last_logits(rows)
    assert torch.equal(logits[0], logits[2]) and not torch.equal(logits[0], logits[1])


def test_no_bit_depends_on_the_batch_on_kept_prefixes_or_on_drafts(
    path: Path, host: PolicyHost, digests: list[str], tmp_path: Path
) -> None:
    parent = verify_checkpoint(path)
    ref = parent.ref("policy")
    asked = [
        CompletionRequest(shown(digest, *WORDS), 12, heat, seed)
        for digest in digests
        for heat, seed in ((0.0, 0), (1.0, 1), (1.0, 2))
    ]
    asked.append(CompletionRequest((3, 4, 5), 12, 1.0, 3))
    alone = []
    for request in asked:
        host._model(ref).forget()
        alone.append(host.completions(ref, [request])[0].generated)
    assert len({g.logprobs for g in alone[1:9:3]}) == 3  # the pictures matter
    host._model(ref).forget()
    assert [c.generated for c in host.completions(ref, asked)] == alone
    assert [c.generated for c in host.completions(ref, asked[::-1])] == alone[::-1]
    drafter = publish(cut_drafter(load_model(parent)), parent, tmp_path, "drafter", {})
    assert drafter.architecture.vision is None
    draft = PolicyHost("drafter", HostSettings())
    written = host.drafted_completions(
        ref, drafter.ref("drafter"), asked, Speculation("always", 3, "both"), draft.draft
    )
    assert [c.generated for c in written] == alone
    assert sum(c.num_drafted for c in written) > 0


def test_options_of_a_picture_are_its_own(path: Path, host: PolicyHost, digests: list[str]) -> None:
    ref = verify_checkpoint(path).ref("policy")
    requests = [OptionRequest(shown(d, *WORDS), 4, 8) for d in digests]
    together = host.options(ref, requests)
    assert len({o.options for o in together}) == 3
    for request, found in zip(requests, together, strict=True):
        host._model(ref).forget()
        assert host.options(ref, [request])[0].options == found.options


def test_features_that_were_dropped_are_computed_again(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.networks.llava_inference.KEPT", 1)
    host = PolicyHost("policy", HostSettings(pictures=str(folder)))
    ref = verify_checkpoint(path).ref("policy")
    digests = kept_pictures(folder, 3)
    requests = [ScoreRequest(shown(d, 5, 6), 16) for d in digests]
    assert host.logprobs(ref, requests) == host.logprobs(ref, requests)


def test_a_critic_sees_pictures(
    path: Path, folder: Path, digests: list[str], tmp_path: Path
) -> None:
    parent = verify_checkpoint(path)
    critic = load_model(parent).as_critic()
    with torch.no_grad():
        critic.head.normal_(generator=torch.Generator().manual_seed(0))
    ref = publish(critic, parent, tmp_path, "value", {}).ref("value")
    host = CriticHost("value", HostSettings(pictures=str(folder)))
    rows = [ScoreRequest(shown(d, 5), 16) for d in digests]
    assert len(set(host.logits(ref, rows))) == 3


def test_a_picture_that_is_not_there_or_is_torn_is_refused(path: Path, host: PolicyHost) -> None:
    ref = verify_checkpoint(path).ref("policy")
    with pytest.raises(TaskError, match="is not in"):
        host.completions(ref, [CompletionRequest(shown("0" * 31, *WORDS), 4, 0.0)])
    with pytest.raises(TaskError, match="is torn"):
        host.completions(ref, [CompletionRequest(shown("0" * 31, *WORDS)[1:], 4, 0.0)])


def test_a_prefix_that_was_kept_to_the_middle_of_a_picture_is_read_from_its_start(
    path: Path, host: PolicyHost, digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = verify_checkpoint(path).ref("policy")
    engine = host._model(ref)
    text = shown(digests[0], *WORDS)
    engine.forget()
    want = engine.last_logits([text])
    whole = engine.tree.match
    assert whole(text)[1].size == len(text)

    def cut(tokens: tuple[int, ...]) -> Any:
        node, ids = whole(tokens)
        return node, ids[:9]

    monkeypatch.setattr(engine.tree, "match", cut)
    monkeypatch.setattr(engine.tree, "store", lambda *_: None)
    assert torch.equal(engine.last_logits([text]), want)


def test_a_network_without_a_folder_says_which_setting_names_it(path: Path) -> None:
    host = PolicyHost("policy", HostSettings())
    ref = verify_checkpoint(path).ref("policy")
    with pytest.raises(TaskError, match="no folder of pictures"):
        host.completions(ref, [CompletionRequest(shown("0" * 31, *WORDS), 4, 0.0)])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"vision_config": {"model_type": "clip_vision_model"}}, "only SigLIP's is computed"),
        ({"vision_feature_select_strategy": "default"}, "drops the first token"),
        ({"vision_feature_layer": -9}, "vision_feature_layer -9"),
        ({"image_token_index": VOCAB}, "image_token_index 17 in a vocabulary of 17"),
        ({"image_seq_length": 9}, "image_seq_length 9"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act 'relu'"),
        ({"vision_feature_extra": 1}, "'vision_feature_extra', which is not known"),
        ({"text_config": None}, "no text_config"),
        ({"multimodal_projector_bias": 3}, "multimodal_projector_bias 3"),
    ],
)
def test_a_config_that_is_not_computed_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    path = write_llava(tmp_path / "p")
    config = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=told):
        read_header(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": 5},
        {"hidden_size": 25},
        {"num_channels": 2},
        {"hidden_act": "swish"},
        {"image_size": "32"},
        {"num_hidden_layers": 10**9},
        {"layer_norm_eps": float("nan")},
        {"extra": 1},
    ],
)
def test_a_tower_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write_llava(tmp_path / "p")
    config = json.loads((path / "config.json").read_text())
    config["vision_config"] |= changes
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        read_header(path)


def test_counts_of_parameters_are_those_of_the_network(path: Path) -> None:
    header = read_header(path)
    model = load_model(verify_checkpoint(path))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert parameter_shapes(header.architecture, False) == shapes
    arch = replace(header.architecture, is_tied=False)
    untied = LlavaModel(arch)
    assert parameter_shapes(arch, False) == {
        name: tuple(p.shape) for name, p in untied.named_parameters()
    }


def test_tokens_say_which_pictures_a_text_has() -> None:
    one, other = "0123456789abcdef" * 2, "f" * 31
    one = one[:31]
    text = (7, *shown(one, 3), *shown(other), *shown(one), 4)
    assert list(pictures_in(text)) == [(1, one), (18, other), (34, one)]
    assert without_pictures(text) == (7, 3, 4)
    assert max(text) < 2**32  # as the store keeps them
    assert [whole_before(text, n, PLACES) for n in (1, 2, 16, 17, 18, 33, 34, 51)] == [
        *(1, 1, 1, 17, 18, 18, 34, 51),
    ]
    assert without_pictures((3, 4)) == (3, 4) and without_pictures(()) == ()


@pytest.mark.parametrize("digest", ["", "0" * 30, "0" * 32, "g" * 31, "A" * 31])
def test_what_is_no_digest_is_refused(digest: str) -> None:
    with pytest.raises(TaskError, match="is no digest"):
        picture_tokens(digest, PLACES, IMAGE)


def test_a_placeholder_in_the_middle_of_the_vocabulary_changes_no_word(tmp_path: Path) -> None:
    path = write_llava(tmp_path / "p", image_token_index=5)
    model = load_model(verify_checkpoint(path))
    assert isinstance(model, LlavaModel)
    with torch.no_grad():
        one, other = (model.logits(model(torch.tensor([[3, t, 4]]))) for t in (7, 9))
        assert not torch.equal(one, other)
    host = PolicyHost("policy", HostSettings())
    rows = [ScoreRequest((3, t, 4), 2) for t in (7, 9)]
    first, second = host.logprobs(verify_checkpoint(path).ref("policy"), rows)
    assert first != second


@pytest.mark.parametrize("change", [{4: 7}, {PLACES - 1: 7}])
def test_a_picture_whose_placeholders_are_not_all_there_is_refused(
    path: Path, host: PolicyHost, digests: list[str], change: dict[int, int]
) -> None:
    text = list(shown(digests[0], *WORDS))
    for i, token in change.items():
        text[i] = token
    with pytest.raises(TaskError, match="is torn"):
        host.logprobs(verify_checkpoint(path).ref("policy"), [ScoreRequest((*text, 5), 17)])
    model = load_model(verify_checkpoint(path))
    with pytest.raises(TaskError, match="is torn"):
        model(torch.tensor([text]))


def test_digests_that_begin_alike_share_no_token_of_a_pack() -> None:
    one, other = (shown("0" * 30 + d, 3, 4) for d in "12")
    (pack,) = packs([one, other, one])
    assert len(pack.tokens) == 2 * len(one)
    assert pack.num_new(one) == 0 and pack.num_new(shown("0" * 31, 3)) == PLACES + 1


def test_a_drafter_of_it_is_a_plain_network_and_goes_on_from_round_to_round(
    path: Path, tmp_path: Path
) -> None:
    parent = verify_checkpoint(path)
    drafter = cut_drafter(load_model(parent))
    assert drafter.arch.model_type == "llama" and laid_out(drafter).reads_pictures is False
    made = publish(drafter, parent, tmp_path, "drafter", {})
    assert made.config["architectures"] == ["LlamaForCausalLM"]
    assert _can_go_on(made, parent, 0)


def test_a_tensor_under_two_names_is_refused(path: Path, tmp_path: Path) -> None:
    other = write_llava(tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    name = "multi_modal_projector.linear_1.bias"
    tensors["model." + name] = tensors[name].clone()
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="under two names"):
        read_header(other)
