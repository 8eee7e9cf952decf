"""What a decoding step fuses, against float64; for Triton's interpreter or a GPU.

It has no twin that could run elsewhere (there the network's general forward does the same work), so
`test_interpreter` and the benchmark of the GPU name this file; it is not collected by itself.
"""

import pytest
import torch
from torch import Tensor

from kernels import decoding
from kernels.rows import Rows
from tests.kernels.exact import DEVICE, close

DTYPES = (torch.float32, torch.bfloat16)


def inputs(
    N: int, H: int, G: int, D: int, C: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one token of each text; the cache; the tokens' columns."""
    qkv = torch.randn(N, H + 2 * G, D, device=DEVICE).to(dtype)
    kept = torch.randn(N + 2, C, 2 * G, D, device=DEVICE).to(dtype)
    return qkv, kept, torch.randint(0, C, (N,), device=DEVICE)


def at(column: Tensor, seen: Tensor | None = None) -> Rows:
    """One row for each job, in the last column that it may see."""
    return Rows(torch.arange(len(column), device=DEVICE), column, column, column + 1, seen)


def turned(x_NHD: Tensor, angle_NP: Tensor) -> Tensor:
    """Pairs of neighbours as complex numbers, times e^(i angle)."""
    a, b = x_NHD[..., 0::2], x_NHD[..., 1::2]
    cos, sin = angle_NP.cos()[:, None], angle_NP.sin()[:, None]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("H", "G", "D"), [(4, 2, 16), (9, 3, 24), (2, 2, 8)])
def test_queries_turn_in_place_and_keys_and_values_go_to_their_column(
    H: int, G: int, D: int, dtype: torch.dtype
) -> None:
    qkv, kept, column = inputs(3, H, G, D, 20, dtype)
    angle = torch.rand(20, D // 2, device=DEVICE) * 6
    turns = torch.stack((angle.cos(), angle.sin()), dim=-1)
    before, cache = qkv.double(), kept.clone()
    exact = turned(before[:, : H + G], angle[column].double())
    plain = turned(before.float()[:, : H + G], angle[column]).to(dtype)
    decoding.turn_and_store(qkv, turns, at(column), kept, H)
    close(qkv[:, :H], exact[:, :H], plain[:, :H])
    row = torch.arange(3, device=DEVICE)
    close(kept[row, column, :G], exact[:, H:], plain[:, H:])
    assert torch.equal(kept[row, column, G:], before[:, H + G :].to(dtype))
    assert torch.equal(qkv[:, H:], before[:, H:].to(dtype))
    kept[row, column] = cache[row, column]
    assert torch.equal(kept, cache), "another column was written"


def test_a_column_past_the_last_position_is_turned_as_the_last_one() -> None:
    qkv, kept, _ = inputs(1, 2, 1, 8, 20, torch.float32)
    turns = torch.rand(4, 4, 2, device=DEVICE)
    again = qkv.clone()
    decoding.turn_and_store(qkv, turns, at(torch.tensor([17], device=DEVICE)), kept, 2)
    decoding.turn_and_store(again, turns, at(torch.tensor([3], device=DEVICE)), kept, 2)
    assert torch.equal(qkv, again)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shares", [1, 4])
@pytest.mark.parametrize(("H", "G", "D"), [(4, 2, 16), (9, 3, 24), (34, 2, 8)])
def test_a_text_sees_its_columns_up_to_its_own_whatever_shares_they_are_read_in(
    H: int, G: int, D: int, shares: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "num_shares", lambda *_: shares)
    qkv, kept, column = inputs(3, H, G, D, 300, dtype)
    column[0], column[1] = 0, 299
    kept[0, 1:] = float("nan")  # what a text does not have is not read
    found = decoding.attention(qkv, at(column), kept, H)

    def attended(precise: torch.dtype) -> Tensor:
        rows = []
        for n in range(3):
            seen = kept[n, : int(column[n]) + 1].to(precise)
            keys = seen[:, :G].repeat_interleave(H // G, dim=1)
            values = seen[:, G:].repeat_interleave(H // G, dim=1)
            z = torch.einsum("hd,chd->hc", qkv[n, :H].to(precise), keys) / D**0.5
            rows.append(torch.einsum("hc,chd->hd", z.softmax(dim=1), values).flatten())
        return torch.stack(rows)

    close(found, attended(torch.float64), attended(torch.float32).to(dtype))


@pytest.mark.parametrize("shares", [1, 4])
def test_rows_of_one_job_see_what_their_mask_shows(
    shares: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As partial options of a prefix do; whole blocks of columns may be hidden."""
    monkeypatch.setattr(decoding, "num_shares", lambda *_: shares)
    qkv, kept, _ = inputs(4, 4, 2, 16, 300, torch.float32)
    job = torch.tensor([2, 0, 2, 2], device=DEVICE)
    end = torch.tensor([300, 1, 290, 200], device=DEVICE)
    seen = (torch.rand(4, 300, device=DEVICE) < 0.3).to(torch.uint8)
    seen[:, :130] = 0
    seen[torch.arange(4), end - 1] = 1
    found = decoding.attention(qkv, Rows(job, end - 1, end - 1, end, seen), kept, 4)
    for n in range(4):
        shown = seen[n].bool() & (torch.arange(300, device=DEVICE) < end[n])
        columns = kept[job[n]][shown].double()
        keys, values = (
            columns[:, :2].repeat_interleave(2, 1),
            columns[:, 2:].repeat_interleave(2, 1),
        )
        z = torch.einsum("hd,chd->hc", qkv[n, :4].double(), keys) / 4
        exact = torch.einsum("hc,chd->hd", z.softmax(dim=1), values).flatten()
        torch.testing.assert_close(found[n].double(), exact, atol=1e-5, rtol=1e-4)


def test_shares_are_a_power_of_two_and_no_more_than_there_are_blocks_of_columns() -> None:
    assert decoding.num_shares(1, 64, DEVICE) == 1
    assert decoding.num_shares(10**6, 4096, DEVICE) == 1
    assert decoding.num_shares(1, 10**6, DEVICE) in (1, 2, 4, 8, 16, 32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gate_multiplies_its_half(dtype: torch.dtype) -> None:
    both = (torch.randn(3, 2 * 1100, device=DEVICE) * 3).to(dtype)

    def gated(precise: torch.dtype) -> Tensor:
        gate, up = both.to(precise).chunk(2, dim=1)
        return torch.nn.functional.silu(gate) * up

    close(decoding.gated(both), gated(torch.float64), gated(torch.float32).to(dtype))
