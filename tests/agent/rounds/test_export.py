"""Exported files are what TRL's own trainers take, as they are."""

from pathlib import Path

import pytest

from store.database import open_store
from store.export import exported, write_rows
from store.pairs import freeze_pairs
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
