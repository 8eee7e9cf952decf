"""The tokenizer that a GGUF file describes, as tokenizer.json and tokenizer_config.json.

llama.cpp knows two kinds: byte-level BPE with merges (`gpt2`), whose way of cutting a text into
words goes by a name (`tokenizer.ggml.pre`), and SentencePiece's BPE (`llama`), which has a score a
piece in place of merges.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from search.errors import CheckpointError

CONTROL, USER_DEFINED = 3, 4
"""Of `tokenizer.ggml.token_type`: marks that stand for no text, and pieces that are never cut."""
PATTERNS = {
    # How the families' own tokenizer.json cuts words; digits by ones, by threes, or as they come.
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""Patterns by name: Llama 3's and Qwen2's."""
SAME_AS = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}
BY_DIGIT = ("smollm",)
PLAIN = ("default", "gpt-2")
WITH_OPENING = ("llama-bpe",)
"""Byte-level vocabularies that open a text where the file does not say whether they do."""


def tokenizer_files(metadata: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer, and what tokenizer_config.json says. Raises CheckpointError for another kind
    than the two, and for a list that does not fit."""
    kind = metadata.get("tokenizer.ggml.model")
    tokens = _tokens(metadata)
    if kind == "gpt2":
        tokenizer = _byte_level(metadata, tokens)
    elif kind == "llama":
        tokenizer = _sentencepiece(metadata, tokens)
    else:
        raise CheckpointError(
            f"its tokenizer is {kind!r:.40}, neither 'gpt2' nor 'llama'",
            "convert the original checkpoint, or use another model",
        )
    _add_marks(tokenizer, metadata, tokens)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = token_id(metadata, key, len(tokens))
        if number is not None:
            config[f"{name}_token"] = tokens[number]
    if isinstance(template := metadata.get("tokenizer.chat_template"), str):
        config["chat_template"] = template
    if config.get("bos_token") and _opens(metadata):
        opening = config["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[opening, "$A"], special_tokens=[(opening, tokens.index(opening))]
        )
    return tokenizer, config


def token_id(metadata: Mapping[str, Any], name: str, size: int) -> int | None:
    """The number that the file gives for a token such as `eos`; None where it gives none.

    Raises CheckpointError for one outside of the vocabulary.
    """
    found = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if found is None:
        return None
    if type(found) is not int or not 0 <= found < size:
        raise CheckpointError(
            f"its {name} token is {found!r:.40}, but it has {size:,} tokens",
            "use a file whose tokenizer belongs to it",
        )
    return found


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise CheckpointError("it has no list of tokens", "use a file with its tokenizer in it")
    if len(set(tokens)) != len(tokens):
        raise CheckpointError("two of its tokens are the same", "download it again")
    return tokens


def _opens(metadata: Mapping[str, Any]) -> bool:
    told = metadata.get("tokenizer.ggml.add_bos_token")
    is_usual = metadata["tokenizer.ggml.model"] == "llama" or _cut(metadata) in WITH_OPENING
    return is_usual if told is None else bool(told)


def _cut(metadata: Mapping[str, Any]) -> str:
    name = str(metadata.get("tokenizer.ggml.pre", "default"))
    return SAME_AS.get(name, name)


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str]) -> Tokenizer:
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list) or not all(isinstance(m, str) for m in merges):
        raise CheckpointError("it has no list of merges", "use a file with its tokenizer in it")
    vocab = {token: number for number, token in enumerate(tokens)}
    pairs = [_pair(merge, vocab) for merge in merges]
    name = _cut(metadata)
    # Llama 3 takes a word that is a token whole, without asking its merges.
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=name == "llama-bpe"))
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in BY_DIGIT:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), whole]
        )
    elif name in PATTERNS:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    elif name in PLAIN:
        tokenizer.pre_tokenizer = whole
    else:
        known = ", ".join((*BY_DIGIT, *PATTERNS, *SAME_AS, *PLAIN))
        raise CheckpointError(
            f"its tokenizer cuts words by {name!r:.40}, which is not one of {known}",
            "put the original tokenizer.json beside config.json, and convert the weights alone",
        )
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(merge: str, vocab: Mapping[str, int]) -> tuple[str, str]:
    left, blank, right = merge.partition(" ")
    if not blank or left not in vocab or right not in vocab or left + right not in vocab:
        raise CheckpointError(
            f"its merge {merge[:40]!r} is not of its tokens", "download the file again"
        )
    return left, right


def _sentencepiece(metadata: Mapping[str, Any], tokens: Sequence[str]) -> Tokenizer:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise CheckpointError("its tokens have no scores", "use a file with its tokenizer in it")
    vocab = {token: number for number, token in enumerate(tokens)}
    unknown = token_id(metadata, "unknown", len(tokens)) or 0
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=_merges(tokens, scores, vocab),
            unk_token=tokens[unknown],
            fuse_unk=True,
            byte_fallback="<0x0A>" in vocab,
        )
    )
    opens_with_space = metadata.get("tokenizer.ggml.add_space_prefix", True)
    blank = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), blank]) if opens_with_space else blank
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if opens_with_space:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges(
    tokens: Sequence[str], scores: Sequence[float], vocab: Mapping[str, int]
) -> list[tuple[str, str]]:
    """SentencePiece joins the two neighbours whose piece has the best score: every way to cut a
    piece in two is a merge, in order of the scores."""
    found = [
        (-score, number, at)
        for number, (token, score) in enumerate(zip(tokens, scores, strict=True))
        for at in range(1, len(token))
        if token[:at] in vocab and token[at:] in vocab
    ]
    return [(tokens[n][:at], tokens[n][at:]) for _, n, at in sorted(found)]


def _add_marks(tokenizer: Tokenizer, metadata: Mapping[str, Any], tokens: Sequence[str]) -> None:
    kinds = metadata.get("tokenizer.ggml.token_type", [])
    if not isinstance(kinds, list) or (kinds and len(kinds) != len(tokens)):
        raise CheckpointError("its token types do not fit its tokens", "download it again")
    for token, kind in zip(tokens, kinds, strict=False):
        if kind == CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
