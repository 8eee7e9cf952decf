"""Direct preference optimisation on sibling pairs through TRL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.training.examples import PairExample
from agent.training.lesson import Lesson
from agent.training.trl_trainer import AdapterSettings, Opened, TrlJob


@dataclass(frozen=True, slots=True, kw_only=True)
class TrlDpoJob(TrlJob):
    pairs: Sequence[PairExample]
    beta: float

    method: ClassVar[str] = "dpo"

    @property
    def num_examples(self) -> int:
        return len(self.pairs)

    def trainer(self, opened: Opened) -> Any:
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        class TokenTrainer(DPOTrainer):
            """Takes rows as they are: an option in mid-text must not be given an end of text."""

            def _prepare_dataset(self, dataset: Any, *arguments: Any, **named: Any) -> Any:
                return dataset

        rows = [
            {
                "prompt_ids": list(p.given),
                "chosen_ids": list(p.chosen),
                "rejected_ids": list(p.rejected),
            }
            for p in self.pairs
        ]
        config = DPOConfig(
            output_dir=opened.folder, beta=self.beta, max_length=None, **opened.common
        )
        return TokenTrainer(
            model=opened.model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=opened.tokenizer,
            peft_config=opened.peft_config,
        )


def job_of(lesson: Lesson) -> TrlDpoJob:
    return TrlDpoJob(
        role="policy",
        parent=lesson.policy.path,
        settings=lesson.settings.model_copy(update={"max_epochs": lesson.config.max_epochs}),
        seed=lesson.seed,
        adapter=AdapterSettings.of(lesson.config),
        pairs=lesson.needed_pairs(),
        beta=lesson.config.beta,
    )
