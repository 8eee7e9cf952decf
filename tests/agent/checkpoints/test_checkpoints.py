"""What may be loaded, what is refused, and how new weights are published."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.publish import NonFiniteError, publish, sweep
from agent.checkpoints.weights import load_model
from agent.engine.requests import CompletionRequest, ScoreRequest
from agent.engine.tokenizer import Tokenizer
from agent.hosting.model_host import CriticHost, GeneratorHost, HostSettings
from search.boundary import NEWLINE
from search.errors import CheckpointError, TaskError
from store.leases import owner_name
from tests.agent.conftest import write_checkpoint

ROOT = Path(__file__).parent.parent.parent.parent


def edit_config(path: Path, **changes: object) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "weights.pkl", "modeling_evil.py", "a.ckpt", "x.npz"]
)
def test_pickled_weights_and_code_beside_safetensors_are_never_opened(
    checkpoint: Path, name: str
) -> None:
    """As transformers does: safetensors are what it loads, and without them nothing is."""
    (checkpoint / name).write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    opened: list[str] = []
    watches = [True]

    def watch(event: str, args: tuple[object, ...]) -> None:  # a hook cannot be removed again
        if watches and event == "open":
            opened.append(str(args[0]))

    sys.addaudithook(watch)
    load_model(verify_checkpoint(checkpoint))
    watches.clear()
    assert any("config.json" in path for path in opened)
    assert not any(path.endswith(name) for path in opened)
    for file in checkpoint.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(CheckpointError) as error:
        verify_checkpoint(checkpoint)
    assert error.value.fix and (name in error.value.message or name.endswith(".py"))


def test_a_left_over_index_does_not_win_over_the_whole_file(checkpoint: Path) -> None:
    version = verify_checkpoint(checkpoint).version
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    (checkpoint / "model-00001-of-00002.safetensors").write_bytes(b"old")
    found = verify_checkpoint(checkpoint)
    assert found.shards == ("model.safetensors",) and found.version == version


def test_nulls_that_ask_for_nothing_are_accepted_and_yarn_is_refused(checkpoint: Path) -> None:
    before = verify_checkpoint(checkpoint).architecture
    names = ("auto_map", "quantization_config", "rope_scaling", "head_dim", "rms_norm_eps")
    nulls = dict.fromkeys(("sliding_window", "hidden_act", "attention_bias", *names))
    edit_config(checkpoint, **nulls)
    after = verify_checkpoint(checkpoint).architecture
    assert (after.head_dim, after.max_positions) == (before.head_dim, before.max_positions)
    edit_config(checkpoint, rope_parameters={"rope_type": "yarn", "factor": 4.0})
    with pytest.raises(CheckpointError, match="yarn") as error:
        verify_checkpoint(checkpoint)
    assert "rope_scaling" in error.value.fix


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "not a JSON object"),
        ('{"eos_token_id": 99999}', "eos_token_id 99999"),
        ('{"eos_token_id": "</s>"}', "'</s>'"),
        ('{"eos_token_id": [0, -1]}', "eos_token_id -1"),
    ],
)
def test_a_broken_generation_config_is_refused_with_the_fix(
    checkpoint: Path, text: str, words: str
) -> None:
    (checkpoint / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(words)) as error:
        Tokenizer(checkpoint)
    assert "generation_config.json" in error.value.message and error.value.fix


def test_every_token_that_ends_a_text_counts(checkpoint: Path) -> None:
    own = Tokenizer(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    token = own.fast.id_to_token(7)
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    assert Tokenizer(checkpoint).end_ids == (5, 6, config["eos_token_id"], 7)


def test_a_published_policy_keeps_what_its_tokenizer_consists_of(
    checkpoint: Path, tmp_path: Path
) -> None:
    kept = ("chat_template.jinja", "merges.txt", "vocab.json", "LICENSE", "tokenizer_config.json")
    for name in kept:
        (checkpoint / name).write_text("{}")
    (checkpoint / "optimizer.pt").write_bytes(b"x")
    edit_config(checkpoint, dtype="bfloat16")
    parent = verify_checkpoint(checkpoint)
    child = publish(load_model(parent), parent, tmp_path / "out", "policy", {})
    assert all((child.path / name).read_text() == "{}" for name in kept)
    assert not (child.path / "optimizer.pt").exists()
    assert child.config["dtype"] == "bfloat16"
    modes = {(child.path / n).stat().st_mode for n in ("model.safetensors", "config.json")}
    assert len(modes) == 1  # what the umask says, for the weights too


def test_remote_code_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, auto_map={"AutoModel": "modeling_evil.Evil"})
    with pytest.raises(CheckpointError, match="auto_map"):
        verify_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"num_hidden_layers": None}),
        ("config.json", {"hidden_size": "abc"}),
        ("config.json", {"architectures": [1]}),
        ("config.json", {"rope_parameters": [1]}),
        ("ratchet.json", {"report": [1]}),
        ("ratchet.json", {"training": "fast"}),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_refused_by_name(
    checkpoint: Path, name: str, change: dict[str, object]
) -> None:
    file = checkpoint / name
    found = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(found | change))
    (checkpoint / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=checkpoint.name) as caught:
        verify_checkpoint(checkpoint)
    assert caught.value.fix


def test_a_link_out_of_the_directory_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    (checkpoint / "model.safetensors").rename(outside)
    (checkpoint / "model.safetensors").symlink_to(outside)
    with pytest.raises(CheckpointError, match="link"):
        verify_checkpoint(checkpoint)


def test_links_into_the_blobs_of_their_own_model_are_followed_and_no_others(
    checkpoint: Path, tmp_path: Path
) -> None:
    """As a hub's cache keeps a model: blobs/ and snapshots/REVISION/ with links into it."""
    snapshot = tmp_path / "models--one" / "snapshots" / "abc"
    shutil.copytree(checkpoint, snapshot)
    for owner, is_followed in (("models--one", True), ("models--other", False)):
        blob = tmp_path / owner / "blobs" / "f00"
        blob.parent.mkdir(parents=True)
        shutil.copyfile(checkpoint / "model.safetensors", blob)
        (snapshot / "model.safetensors").unlink()
        (snapshot / "model.safetensors").symlink_to(blob)
        if is_followed:
            assert verify_checkpoint(snapshot).version == verify_checkpoint(checkpoint).version
        else:
            with pytest.raises(CheckpointError, match="link"):
                verify_checkpoint(snapshot)


def test_a_directory_that_is_not_there_or_lacks_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not there"):
        verify_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        verify_checkpoint(tmp_path)


@pytest.mark.parametrize("place", [0, 5, 200, 4000])
def test_a_changed_byte_is_noticed_before_use(checkpoint: Path, place: int) -> None:
    ref = verify_checkpoint(checkpoint).ref("policy")
    file = checkpoint / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[place] ^= 0x55
    file.write_bytes(raw)
    with pytest.raises(CheckpointError):
        GeneratorHost("policy", HostSettings()).load(ref)


def test_a_truncated_file_is_corrupt(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="corrupt"):
        load_model(verify_checkpoint(checkpoint))


def test_weights_that_are_not_finite_are_refused(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.norm.weight"][3] = float("inf")
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight.*NaN or infinite"):
        load_model(verify_checkpoint(checkpoint))


def test_weights_of_another_shape_are_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, intermediate_size=64)
    with pytest.raises(CheckpointError, match="shape"):
        load_model(verify_checkpoint(checkpoint))


def test_control_tokens_in_user_text_are_plain_characters_or_an_error(checkpoint: Path) -> None:
    tokenizer = Tokenizer(checkpoint)
    assert tokenizer.encode("1+2\n") == [4, 13, 5, 2]
    assert tokenizer.decode([4, 13, 5, 1, 0]) == "1+2"
    for text in ("</s>", "1+2</s>", "<pad>"):
        with pytest.raises(TaskError):
            tokenizer.encode(text)
    assert tokenizer.steps(NEWLINE).ids == {2}


def test_a_model_without_an_end_token_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, eos_token_id=None)
    with pytest.raises(CheckpointError, match="eos_token_id"):
        Tokenizer(checkpoint)


def test_published_weights_load_in_transformers_and_here(checkpoint: Path, tmp_path: Path) -> None:
    import transformers

    parent = verify_checkpoint(checkpoint)
    decoder = load_model(parent)
    with torch.no_grad():
        decoder.model.norm.weight += 0.5
    child = publish(decoder, parent, tmp_path / "out", "policy", {"seed": 1})
    assert child.path.name == f"policy-{child.version}"
    assert child.notes["parent"] == parent.version
    assert child.version != parent.version
    theirs = transformers.AutoModelForCausalLM.from_pretrained(child.path).eval()
    tokens = torch.tensor([[4, 13, 5, 2, 7]])
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(child).lm_head(load_model(child)(tokens)),
            theirs(tokens).logits,
            atol=2e-5,
            rtol=1e-4,
        )


def test_a_published_critic_is_a_transformers_classifier(checkpoint: Path, tmp_path: Path) -> None:
    import transformers

    parent = verify_checkpoint(checkpoint)
    policy = load_model(parent)
    critic = policy.as_critic()
    torch.nn.init.normal_(critic.score.weight, generator=torch.Generator().manual_seed(0))
    child = publish(critic, parent, tmp_path / "out", "value", {})
    assert child.is_critic
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(child.path).eval()
    row = (4, 13, 5, 2, 7)
    ref = verify_checkpoint(child.path).ref("value")
    found = CriticHost("value", HostSettings()).logits(
        ref, [ScoreRequest(t, 1) for t in (row, row[:3], (3,) * 999)]
    )
    with torch.no_grad():
        assert found[0] == pytest.approx(float(theirs(torch.tensor([row])).logits), abs=1e-4)
        assert found[1] == pytest.approx(float(theirs(torch.tensor([row[:3]])).logits), abs=1e-4)
    assert found[2] != found[2]  # longer than the context: no number


def test_a_token_critic_gives_the_log_odds_of_its_judged_tokens_whatever_was_kept(
    checkpoint: Path,
) -> None:
    import math

    ref = verify_checkpoint(checkpoint).ref("process")
    host = CriticHost("process", HostSettings())
    rows = [ScoreRequest((4, 13, 5, 2, 7, 8, 9), n) for n in (1, 4, 6)]
    rows += [ScoreRequest((4, 13, 5, 2), 4), ScoreRequest((3,) * 999, 3), rows[0]]
    found = host.logits(ref, rows)
    decoder = load_model(verify_checkpoint(checkpoint))
    with torch.no_grad():
        tokens = torch.tensor([rows[0].tokens])
        logprob = torch.log_softmax(decoder.lm_head(decoder(tokens)), -1)[0]
    for score, request in zip(found[:3], rows[:3], strict=True):
        places = range(request.num_given, 7)
        total = sum(float(logprob[t - 1, tokens[0, t]]) for t in places)
        expected = total - math.log(-math.expm1(total))
        assert score == pytest.approx(expected, abs=1e-4)
    assert math.isnan(found[3]) and math.isnan(found[4])
    assert found[5] == found[0]
    assert host.logits(ref, rows[1:2]) == found[1:2]


def test_the_same_weights_published_twice_are_one_directory(
    checkpoint: Path, tmp_path: Path
) -> None:
    parent = verify_checkpoint(checkpoint)
    first = publish(load_model(parent), parent, tmp_path / "out", "policy", {})
    second = publish(load_model(parent), parent, tmp_path / "out", "policy", {})
    assert first.path == second.path
    assert [p.name for p in (tmp_path / "out").iterdir()] == [first.path.name]


def test_weights_that_are_not_finite_are_never_published(checkpoint: Path, tmp_path: Path) -> None:
    parent = verify_checkpoint(checkpoint)
    decoder = load_model(parent)
    with torch.no_grad():
        decoder.model.norm.weight[0] = float("nan")
    with pytest.raises(NonFiniteError):
        publish(decoder, parent, tmp_path / "out", "policy", {})
    assert not (tmp_path / "out").exists()


def test_a_half_written_checkpoint_is_swept_away(tmp_path: Path) -> None:
    host = socket.gethostname()
    dead, alive = (
        tmp_path / f".writing {host} 999999 1 abc",
        tmp_path / f".writing {owner_name()} d",
    )
    for path in (dead, alive, tmp_path / ".writing elsewhere 7 1 e", tmp_path / "policy-1"):
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"x")
    assert sweep(tmp_path) == 1
    assert not dead.exists() and alive.exists() and len(list(tmp_path.iterdir())) == 3


def test_a_host_serves_the_version_that_the_call_names(tmp_path: Path) -> None:
    refs = [
        verify_checkpoint(write_checkpoint(tmp_path / str(i), seed=i)).ref("policy")
        for i in range(3)
    ]
    host = GeneratorHost("policy", HostSettings())
    ask = [CompletionRequest((4, 13, 6, 2), 12, 0.0)]
    texts = [host.completions(ref, ask) for ref in refs]
    assert texts[0] != texts[1]
    assert host.completions(refs[0], ask) == texts[0]
    assert len(host.health()["versions"]) == 2


@pytest.mark.round
def test_transformers_imports_with_our_kernels_package_first_on_the_path() -> None:
    code = "from transformers import LlamaForCausalLM; import kernels; print(kernels.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert str(ROOT / "kernels") in done.stdout
