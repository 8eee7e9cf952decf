"""The drafter: the policy's first blocks, distilled on the policy's own texts (Inheritune)."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from agent.engine.batch import padded
from agent.networks.llama import Decoder
from agent.training.examples import Example


def cut_drafter(policy: Decoder, share: float = 0.5) -> Decoder:
    """A decoder with the policy's first blocks, embeddings, last norm and head, copied."""
    num_layers = max(1, round(share * policy.arch.num_layers))
    drafter = Decoder(replace(policy.arch, num_layers=num_layers))
    wanted = drafter.state_dict()
    drafter.load_state_dict({k: v for k, v in policy.state_dict().items() if k in wanted})
    return drafter


@torch.inference_mode()
def expected_acceptance(policy: Decoder, drafter: Decoder, examples: Sequence[Example]) -> float:
    """Mean overlap sum min(p, q) of the two laws at temperature 1 over the examples' own tokens."""
    total, count = 0.0, 0
    device = policy.model.norm.weight.device
    for start in range(0, len(examples), 64):
        part = examples[start : start + 64]
        tokens_BT, lengths_B = padded([e.tokens for e in part])
        tokens_BT, lengths_B = tokens_BT.to(device), lengths_B.to(device)
        given_B = torch.tensor([e.num_prompt for e in part], device=device)
        place = torch.arange(tokens_BT.shape[1], device=device)
        learned = (place >= given_B[:, None] - 1) & (place < lengths_B[:, None] - 1)
        p = torch.softmax(policy.lm_head(policy(tokens_BT)[learned]).float(), dim=-1)
        q = torch.softmax(drafter.lm_head(drafter(tokens_BT)[learned]).float(), dim=-1)
        total += float(torch.minimum(p, q).sum())
        count += p.shape[0]
    return total / count if count else 0.0
