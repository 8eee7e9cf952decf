"""The engine: transformers' own numbers, the most probable lines, drafts that change nothing."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.engine.feed import feed
from agent.engine.job_cache import Cache
from agent.engine.requests import CompletionRequest, OptionRequest
from agent.engine.tokenizer import Tokenizer
from agent.networks import registry
from agent.networks.architecture import SUPPORTED
from agent.networks.llama import Decoder
from agent.networks.registry import laid_out
from search.boundary import Boundary, boundary_named
from search.errors import CheckpointError, TaskError
from search.settings import ProposalRule
from tests.agent.conftest import write_checkpoint
from tests.agent.engine.engines import engine

FAMILIES = {
    "llama-gqa-untied-bias-scaled": (
        "LlamaConfig",
        "LlamaForCausalLM",
        {
            "num_key_value_heads": 2,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "llama-linear-scaling": (
        "LlamaConfig",
        "LlamaForCausalLM",
        {
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0},
        },
    ),
    "mistral": (
        "MistralConfig",
        "MistralForCausalLM",
        {"num_key_value_heads": 2, "sliding_window": None, "head_dim": 24},
    ),
    "qwen2": (
        "Qwen2Config",
        "Qwen2ForCausalLM",
        {"num_key_value_heads": 2, "tie_word_embeddings": True},
    ),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"num_key_value_heads": 2, "head_dim": 16}),
}


def test_every_family_that_a_header_admits_has_its_network() -> None:
    assert tuple(registry.FAMILIES) == SUPPORTED


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers_own(family: str, tmp_path: Path) -> None:
    import transformers

    config_name, model_name, changes = FAMILIES[family]
    shape = {
        "vocab_size": 53,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    }
    torch.manual_seed(0)
    theirs = getattr(transformers, model_name)(
        getattr(transformers, config_name)(**(shape | changes))
    ).eval()
    for name, parameter in theirs.named_parameters():
        if "bias" in name or "norm" in name:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
    theirs.save_pretrained(tmp_path)
    ours = load_model(verify_checkpoint(tmp_path))
    tokens = torch.randint(0, 53, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = theirs(tokens).logits
        found = ours.lm_head(ours(tokens))
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    network = laid_out(ours)
    cache = Cache(network)
    jobs = cache.open([0, 0, 0])
    parts = [tokens[:, :25], tokens[:, 25:26], tokens[:, 26:40]]
    with torch.no_grad():
        found = torch.cat(
            [
                network.logits(feed(network, cache, jobs, part.tolist())).view(3, -1, 53)
                for part in parts
            ],
            dim=1,
        )
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def plain(tmp_path: Path) -> Decoder:
    """The same weights in the form for training."""
    return load_model(verify_checkpoint(tmp_path / "p"))


def probability(
    decoder: Decoder, prefix: Sequence[int], tokens: Sequence[int], heat: float = 1.0
) -> float:
    """Log-probability of tokens after a prefix at a temperature, by a plain forward."""
    row = torch.tensor([[*prefix, *tokens]])
    with torch.no_grad():
        logits = torch.log_softmax(decoder.lm_head(decoder(row))[0].double() / heat, -1)
    return sum(float(logits[len(prefix) - 1 + i, t]) for i, t in enumerate(tokens))


def test_lines_are_the_most_probable_different_ones(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=3, scale=1.5))
    prefix = (5, 13, 6, 2)
    lines = found.options([OptionRequest(prefix, 40, 2)])[0].options  # all above e^-12
    every = [(t,) for t in (1, 2)] + [
        (a, b) for a, b in itertools.product(range(16), repeat=2) if a not in (1, 2)
    ]
    scored = sorted(((probability(plain(tmp_path), prefix, t), t) for t in every), reverse=True)
    assert [line.tokens for line in lines] == [t for _, t in scored[:40]]
    assert sum(lines[0].logprobs) == pytest.approx(scored[0][0], abs=1e-4)
    assert {line.stop for line in lines} <= {"boundary", "end", "length"}


def test_lines_do_not_depend_on_what_shares_their_batch(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=4))
    requests = [OptionRequest((3 + i, 13, 5, 2)[: 2 + i % 3], 4, 10) for i in range(7)]
    together = found.options(requests)
    for request, lines in zip(requests, together, strict=True):
        alone = found.options([request])[0]
        assert [x.tokens for x in alone.options] == [x.tokens for x in lines.options]


def test_sampled_options_differ_by_seed_and_repeat_by_seed(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=4))
    ask = [OptionRequest((3, 13, 5, 2), 6, 8, "sampled", 1.0, seed) for seed in (1, 2, 1)]
    first, second, again = ([x.tokens for x in lines.options] for lines in found.options(ask))
    assert first == again and first != second


@pytest.mark.parametrize("heat", [1.0, 0.6])
def test_drawn_lines_are_a_sample_without_replacement(tmp_path: Path, heat: float) -> None:
    """First draw: p. Second draw, given the first: p / (1 - p_first). Both by chi-square."""
    found = engine(write_checkpoint(tmp_path / "p", seed=3, scale=1.5))
    prefix, num = (5, 13, 6, 2), 4000
    lines = [
        found.options(
            [OptionRequest(prefix, 2, 2, "drawn", heat, seed=s) for s in range(a, a + 500)]
        )
        for a in range(0, num, 500)
    ]
    raw = lines[0][0].options[0]  # what is told is the policy's own, at any temperature
    wanted = probability(plain(tmp_path), prefix, raw.tokens)
    assert sum(raw.logprobs) == pytest.approx(wanted, abs=1e-4)
    draws = [tuple(x.tokens for x in line.options) for part in lines for line in part]
    every = [(t,) for t in (1, 2)] + [
        (a, b) for a, b in itertools.product(range(16), repeat=2) if a not in (1, 2)
    ]
    model = plain(tmp_path)
    distribution = {t: math.exp(probability(model, prefix, t, heat)) for t in every}
    assert sum(distribution.values()) == pytest.approx(1.0, abs=1e-4)
    assert all(a != b for a, b in draws)
    first = Counter(a for a, _ in draws)
    likeliest = first.most_common(1)[0][0]
    second = Counter(b for a, b in draws if a == likeliest)
    rest = {t: p / (1 - distribution[likeliest]) for t, p in distribution.items() if t != likeliest}
    for counts, total, wanted in ((first, num, distribution), (second, first[likeliest], rest)):
        common = [t for t, p in wanted.items() if p * total >= 20]
        expected = [total * wanted[t] for t in common]
        seen = [counts[t] for t in common]
        expected.append(total - sum(expected))
        seen.append(total - sum(seen))
        statistic = sum((s - e) ** 2 / e for s, e in zip(seen, expected, strict=True))
        # Chi-square has mean f and variance 2 f; seven deviations are past any luck.
        assert statistic < len(common) + 7 * math.sqrt(2 * len(common))


def test_more_draws_begin_with_the_ones_before_and_their_logprobs_are_exact(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=4))
    prefix = (3, 13, 5, 2)
    few, many = (
        found.options([OptionRequest(prefix, n, 6, "drawn", seed=11)])[0].options for n in (3, 12)
    )
    assert [x.tokens for x in many[:3]] == [x.tokens for x in few]
    assert len({x.tokens for x in many}) == 12
    for line in many:
        wanted = probability(plain(tmp_path), prefix, line.tokens)
        assert sum(line.logprobs) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("mode", ["distinct", "drawn", "sampled"])
def test_options_end_at_the_boundary_that_the_request_names(
    tmp_path: Path, mode: ProposalRule
) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=4))
    prefix = (3, 13, 5, 2)

    tokenizer = Tokenizer(tmp_path / "p")

    def stops(boundary: Boundary) -> list[tuple[int, int, str]]:
        """Tokens and characters of each option, and why it stopped."""
        asked = OptionRequest(prefix, 6, 12, mode, seed=1, boundary=boundary)
        lines = found.options([asked])[0].options
        return [(len(x.tokens), len(tokenizer.decode(x.tokens)), x.stop) for x in lines]

    assert {(n, s) for n, _, s in stops(boundary_named("tokens:3")) if s != "end"} == {
        (3, "boundary")
    }
    assert all(n == 1 for n, _, _ in stops(boundary_named("token")))
    never = Boundary("never", ends=lambda text: False)
    assert {(n, s) for n, _, s in stops(never) if s != "end"} <= {(12, "length")}
    even = Boundary("even", lambda token: True, lambda text: len(text) % 2 == 0)
    ended = [size for _, size, stop in stops(even) if stop == "boundary"]
    assert ended and all(size % 2 == 0 for size in ended)


def test_sampled_tokens_follow_the_policys_distribution(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=7))
    num = 6000
    prefix = (4, 13, 6, 2)
    texts = found.completions([CompletionRequest(prefix, 1, 0.8, i) for i in range(num)])
    row = torch.tensor([prefix])
    with torch.no_grad():
        decoder = plain(tmp_path)
        distribution = torch.softmax(decoder.lm_head(decoder(row))[0, -1].double() / 0.8, -1)
    counts = torch.bincount(torch.tensor([t.generated.tokens[0] for t in texts]), minlength=16)
    chi_square = float((((counts - num * distribution) ** 2) / (num * distribution)).sum())
    assert chi_square < 37.7  # p = 0.001 at 15 degrees of freedom


def test_a_row_with_logits_that_are_not_finite_fails_alone(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=8))
    found.network.embedding = found.network.embedding.clone()
    found.network.embedding[9] = float("nan")
    found.network.head[:, 9] = -found.network.head[:, 4]  # and nobody writes the token
    texts = found.completions(
        [CompletionRequest((9, 13, 6, 2), 5, 0.0), CompletionRequest((4, 13, 6, 2), 5, 0.0)]
    )
    assert "not finite" in texts[0].error
    assert texts[1].error == "" and texts[1].generated.tokens


def test_a_prompt_longer_than_the_context_is_refused(checkpoint: Path) -> None:
    with pytest.raises(TaskError, match="context"):
        engine(checkpoint).completions([CompletionRequest((3,) * 400, 5, 0.0)])


def test_an_unsupported_architecture_lists_the_supported_ones(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        verify_checkpoint(write_checkpoint(tmp_path / "p")).architecture.from_config(
            {"model_type": "mamba"}
        )
    assert "mamba" in error.value.message
    assert "llama" in error.value.fix and "vLLM" in error.value.fix


def test_each_token_carries_its_logprob_raw_and_under_the_distribution(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=5))
    prefix = (4, 13, 6, 2)
    request = CompletionRequest(prefix, 8, 0.7, 3, top_k=6, top_p=0.9)
    text = found.completions([request])[0].generated
    for i, token in enumerate(text.tokens):
        raw = found.next_logprobs([prefix + text.tokens[:i]])[0].double()
        processed = (raw / 0.7).softmax(0)
        order = processed.argsort(descending=True)[:6]
        kept = processed[order] / processed[order].sum()
        order = order[(kept.cumsum(0) - kept) < 0.9]
        assert token in order.tolist()
        wanted = float(processed[token] / processed[order].sum())
        assert math.exp(text.processed_logprobs[i]) == pytest.approx(wanted, rel=1e-4)
        assert text.logprobs[i] == pytest.approx(float(raw[token]), abs=1e-5)
    assert text.version == verify_checkpoint(tmp_path / "p").version


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", -0.2),
    ],
)
def test_a_sampling_parameter_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(TaskError, match=name):
        CompletionRequest(**({"prefix": (3,), "max_tokens": 4, "temperature": 1.0} | {name: value}))


def test_a_line_request_with_logits_that_are_not_finite_fails_alone(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=8))
    found.network.embedding = found.network.embedding.clone()
    found.network.embedding[9] = float("nan")
    bad, good = found.options([OptionRequest((9, 13), 3, 1), OptionRequest((4, 13), 3, 1)])
    assert "not finite" in bad.error and bad.options == ()
    assert good.error == "" and len(good.options) == 3
    (again,) = found.options([OptionRequest((4, 13, 5), 3, 1)])  # the workspace is clean
    assert again.error == ""


def test_a_score_that_is_not_finite_spoils_no_later_one(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=8))
    clean = found.last_logits([(4, 13)])
    found.network.embedding = found.network.embedding.clone()
    found.network.embedding[9] = float("nan")
    bad = found.last_logits([(3, *range(9, 0, -1), 9, 9, 9)])
    assert torch.isnan(bad).all()
    assert torch.equal(found.last_logits([(4, 13)]), clean)  # in the columns that the other had
