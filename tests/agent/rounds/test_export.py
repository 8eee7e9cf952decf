"""Exported files are what TRL's own trainers take, as they are."""

from pathlib import Path

import pytest
from sqlalchemy import update

from agent.pictures.folder import PictureFolder
from store.database import open_store
from store.export import exported, write_rows
from store.pairs import freeze_pairs
from store.schema import ProblemRow
from tests.agent.networks.pictured import kept_pictures, write_llava
from tests.store.test_export import frozen

pytestmark = pytest.mark.round

pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[trl]'")


@pytest.mark.parametrize(
    ("kind", "ending"), [("sft", "jsonl"), ("dpo", "parquet"), ("kto", "jsonl")]
)
def test_trl_trains_on_an_exported_file(
    kind: str, ending: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import trl
    from datasets import load_dataset
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    store = open_store(f"sqlite:///{tmp_path}/store.db")
    path = tmp_path / f"{kind}.{ending}"
    dataset_id = frozen(store)
    with store.session() as session:
        freeze_pairs(session, dataset_id)
        num = write_rows(exported(session, kind, [dataset_id], lambda p: f"{p}\n"), path, False)
    store.close()
    form = "json" if ending == "jsonl" else "parquet"
    data = load_dataset(
        form, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(data) == num
    trainer_of, config_of = {
        "sft": (trl.SFTTrainer, trl.SFTConfig),
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "kto": (trl.KTOTrainer, trl.KTOConfig),
    }[kind]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    end = AutoConfig.from_pretrained(checkpoint).eos_token_id
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end)
    settings = config_of(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    trainer = trainer_of(model=model, args=settings, train_dataset=data, processing_class=tokenizer)
    assert trainer.train().global_step == 1


def test_trls_vision_trainer_takes_texts_with_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import transformers
    import trl
    from datasets import Image as ImageColumn
    from datasets import List, load_dataset

    store = open_store(f"sqlite:///{tmp_path}/store.db")
    path = tmp_path / "sft.jsonl"
    dataset_id = frozen(store)
    folder = PictureFolder(tmp_path / "pictures")
    (digest,) = kept_pictures(folder.path, 1)
    with store.session() as session:
        session.execute(update(ProblemRow).values(pictures=digest))
        rows = exported(
            session,
            "sft",
            [dataset_id],
            lambda p: f"{p}\n",
            file_of=lambda d: str(folder.file_of(d)),
        )
        write_rows(rows, path, False)
    store.close()
    data = load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    ).cast_column("images", List(ImageColumn()))
    policy = write_llava(tmp_path / "policy")
    config = transformers.LlavaConfig.from_pretrained(policy)
    config.vision_config.num_channels = 3  # the trainer makes all pictures coloured
    half, size = [0.5] * 3, {"height": 16, "width": 64}
    processor = transformers.LlavaProcessor(
        image_processor=transformers.SiglipImageProcessor(
            size=size, image_mean=half, image_std=half
        ),
        tokenizer=transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(policy / "tokenizer.json"), eos_token="</s>", pad_token="<pad>"
        ),
        patch_size=8,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token="<image>",
        chat_template="{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}"
        "<image>{% else %}{{ c.text }}{% endif %}{% endfor %}"
        "{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}",
    )
    settings = trl.SFTConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
        max_length=None,
        save_strategy="no",
        disable_tqdm=True,
    )
    model = transformers.LlavaForConditionalGeneration(config)
    trainer = trl.SFTTrainer(
        model=model, args=settings, train_dataset=data, processing_class=processor
    )
    assert trainer.train().global_step == 2
