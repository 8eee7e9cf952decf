"""Supervised fine-tuning through TRL; the prompts of the texts are masked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.training.examples import Example
from agent.training.lesson import Lesson
from agent.training.trl_trainer import AdapterSettings, Opened, TrlJob


@dataclass(frozen=True, slots=True, kw_only=True)
class TrlSftJob(TrlJob):
    examples: Sequence[Example]

    method: ClassVar[str] = "sft"

    @property
    def num_examples(self) -> int:
        return len(self.examples)

    def trainer(self, opened: Opened) -> Any:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        rows = [
            {
                "input_ids": list(e.tokens),
                "labels": [-100] * e.num_prompt + list(e.tokens[e.num_prompt :]),
            }
            for e in self.examples
        ]
        return SFTTrainer(
            model=opened.model,
            args=SFTConfig(output_dir=opened.folder, max_length=None, **opened.common),
            train_dataset=Dataset.from_list(rows),
            processing_class=opened.tokenizer,
            peft_config=opened.peft_config,
        )


def job_of(lesson: Lesson) -> TrlSftJob:
    """All texts: TRL's early stop saves a checkpoint at every look, so none are set aside."""
    num_steps, examples = lesson.with_replay([*lesson.texts, *lesson.variants])
    return TrlSftJob(
        role="policy",
        parent=lesson.policy.path,
        settings=lesson.settings.model_copy(update={"num_steps": num_steps}),
        seed=lesson.seed,
        adapter=AdapterSettings.of(lesson.config),
        examples=examples,
    )
