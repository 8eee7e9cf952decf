r"""The chains of equations in a text's formulas: what stands between `$`, `\(`, `\[` and the like.

A dollar is a sign of currency unless it opens and closes something: `$5 * 3 = $16` holds no
formula, `$2x = 6$` does. Each formula is cut where a new claim begins (`\\`, a comma, "and",
`\implies`), and a claim at its equals signs.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from critics.agreement import Side, sides_agree
from critics.claims import Claim, plain_formula, whole_side
from critics.plain_text import plain

MAX_FORMULA = 600
MAX_CHAINS = 24
"""Of one text."""
PLACEHOLDER = "\N{OBJECT REPLACEMENT CHARACTER}"

_FORMULA = re.compile(
    r"\$\$(?P<display>[^$]{1,600})\$\$"
    r"|(?<![\\\w])\$(?=[^\s$])(?P<inline>(?:[^$\\]|\\.){1,600}?)(?<![\s=+*/<>-])\$(?!\d)"
    r"|\\\((?P<round>.{1,600}?)\\\)"
    r"|\\\[(?P<square>.{1,600}?)\\\]",
    re.DOTALL,
)
_CUTS = re.compile(
    r"\\\\|\\q?quad(?![A-Za-z])|\\(?:implies|Rightarrow|Longrightarrow|Longleftrightarrow|iff|to"
    r"|rightarrow|Leftrightarrow|therefore|because|land|lor|text|mbox|mathrm|hbox)(?![A-Za-z])"
    r"|[;]|,(?!\d{3}(?!\d))|\\(?:begin|end)\s*\{[^{}]*\}|\\tag\s*\{[^{}]*\}"
)
_RELATIONS = re.compile(
    r"<|>|≤|≥|≠|≈|\\(?:neq?|leq?|geq?|lt|gt|approx|equiv|sim|cong|pmod|bmod|mod|mid|in|cdots|ldots|dots"
    r"|not|pm|mp|binom|lfloor|lceil|sum|prod|int|lim|circ|infty|vec|angle|overline|ddot)(?![A-Za-z])|…|\.\.\."
)
_EQUALS = re.compile(r"&?\s*=\s*&?")
_DECIMAL_COMMA = re.compile(r"(?<=\d)\{,\}(?!\d{3}(?!\d))(?=\d)")
_SCALE = re.compile(r"thousand|million|billion|trillion|dozen|hundred|modulo|base")
_TABLE = re.compile(r"matrix|\\begin\s*\{(?:cases|array)")
"""What stands in rows and columns is no chain of equations."""


@dataclass(frozen=True, slots=True)
class Parted:
    prose: str
    """The text with a placeholder for each formula."""
    chains: tuple[tuple[str, ...], ...]
    """Sides of each chain of equations, plain, two and more."""


def parted(text: str) -> Parted:
    chains: list[tuple[str, ...]] = []

    def take(match: re.Match[str]) -> str:
        formula = next(g for g in match.groups() if g is not None)
        chains.extend(_chains(formula))
        return PLACEHOLDER

    prose = _FORMULA.sub(take, text)
    return Parted(prose, tuple(chains[:MAX_CHAINS]))


def _chains(formula: str) -> list[tuple[str, ...]]:
    is_other = _TABLE.search(formula) or _SCALE.search(formula)
    if "=" not in formula or len(formula) > MAX_FORMULA or is_other:
        return []
    formula = _DECIMAL_COMMA.sub(".", formula.replace(r"\!", "")).replace("{,}", ",")
    found: list[tuple[str, ...]] = []
    carried = ""
    for part in _CUTS.split(formula):
        # A line of an aligned display that begins with its equals sign goes on with the last side.
        whole = carried + part if part.strip(" &").startswith("=") else part
        sides = tuple(plain(s).strip(" .&\n\t") for s in _EQUALS.split(whole))
        carried = sides[-1] if sides[-1] else carried
        if len(sides) > 1 and not _RELATIONS.search(whole):
            found.append(sides)
    return found


def formula_claims(
    chain: tuple[str, ...], ask: Callable[[str, str], bool | None], is_hedged: bool
) -> list[Claim]:
    """What a chain claims: each side equals the next. `ask` is the algebra behind arithmetic."""
    found: list[Claim] = []
    for left, right in pairwise(chain):
        ours, theirs = _arithmetic(left), _arithmetic(right)
        if ours is not None and theirs is not None:
            holds = sides_agree(ours, theirs)
        elif left and right:
            holds = ask(left, right)
        else:
            holds = None
        found.append(Claim(f"{left} = {right}", None if is_hedged and not holds else holds))
    return found


def _arithmetic(side: str) -> Side | None:
    return whole_side(plain_formula(side))
