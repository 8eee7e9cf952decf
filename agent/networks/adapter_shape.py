"""What is said of a network's adapters without torch: their shape, and how parameters are named."""

from dataclasses import dataclass

A, B = ".lora_A.weight", ".lora_B.weight"
"""What the names of an adapter's parameters end in, and no others: those that PEFT gives them."""


@dataclass(frozen=True, slots=True)
class AdapterShape:
    rank: int
    alpha: float

    @classmethod
    def of_rank(cls, rank: int) -> "AdapterShape":
        """With an alpha of twice the rank."""
        return cls(rank, 2.0 * rank)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def is_of_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return name.endswith((A, B))
