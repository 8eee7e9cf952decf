"""The words of short stories about amounts, in three languages: sentence by sentence the same."""

import re
from dataclasses import dataclass
from functools import cache

OPERATIONS = (
    ("+", (2, 60)),
    ("+", (2, 40)),
    ("+", (2, 40)),
    ("-", (2, 60)),
    ("-", (2, 30)),
    ("-", (2, 60)),
    ("*", (2, 5)),
    ("/", (2, 6)),
)
"""Of the events, with their smallest and largest amounts; sentence i of every language tells event
i."""


@dataclass(frozen=True, slots=True)
class Language:
    """How one language tells a story."""

    names: tuple[str, ...]
    things: tuple[str, ...]
    """Plurals that every sentence takes as they are."""
    start: str
    sentences: tuple[str, ...]
    """One of each event, with {name}, {things} and {n}."""
    question: str


@cache
def patterns(language: Language) -> tuple[re.Pattern[str], ...]:
    """Of the first sentence with the space behind it, then of the events'; groups `name`, `n` and
    `things`, as far as a sentence has them."""
    return tuple(_pattern(s) for s in (language.start + " ", *language.sentences))


def _pattern(sentence: str) -> re.Pattern[str]:
    found = re.escape(sentence)
    for place, part in (("name", r"\w+"), ("n", r"\d+"), ("things", r"\w+")):
        found = found.replace(rf"\{{{place}\}}", f"(?P<{place}>{part})")
    return re.compile(found)


ENGLISH = Language(
    ("Ann", "Ben", "Cara", "Dan", "Eve", "Finn", "Gina", "Hugo"),
    ("apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps"),
    "{name} has {n} {things}.",
    (
        "{name} buys {n} more {things}.",
        "{name} finds {n} {things}.",
        "A friend gives {name} {n} {things}.",
        "{name} gives away {n} {things}.",
        "{name} loses {n} {things}.",
        "{name} sells {n} {things}.",
        "Then {name} has {n} times as many {things}.",
        "{name} shares the {things} among {n} boxes and keeps one box.",
    ),
    "How many {things} does {name} have?",
)

GERMAN = Language(
    ("Anna", "Bernd", "Clara", "Dirk", "Elke", "Fritz", "Gerda", "Horst"),
    ("Äpfel", "Bücher", "Karten", "Münzen", "Eier", "Stifte", "Muscheln", "Marken"),
    "{name} hat {n} {things}.",
    (
        "{name} kauft {n} {things} dazu.",
        "{name} findet {n} {things}.",
        "Ein Freund schenkt {name} {n} {things}.",
        "{name} verschenkt {n} {things}.",
        "{name} verliert {n} {things}.",
        "{name} verkauft {n} {things}.",
        "Dann hat {name} {n} Mal so viele {things}.",
        "{name} verteilt die {things} auf {n} Kisten und behält eine Kiste.",
    ),
    "Wie viele {things} hat {name}?",
)

SPANISH = Language(
    ("Ana", "Bruno", "Carla", "David", "Elena", "Félix", "Gloria", "Hugo"),
    ("manzanas", "cartas", "fotos", "monedas", "llaves", "plumas", "conchas", "postales"),
    "{name} tiene {n} {things}.",
    (
        "{name} compra {n} {things} más.",
        "{name} encuentra {n} {things}.",
        "Un amigo le da a {name} {n} {things}.",
        "{name} regala {n} {things}.",
        "{name} pierde {n} {things}.",
        "{name} vende {n} {things}.",
        "Entonces {name} tiene {n} veces más {things}.",
        "{name} reparte las {things} en {n} cajas y se queda con una caja.",
    ),
    "¿Cuántas {things} tiene {name}?",
)
