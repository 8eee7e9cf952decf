"""The words of short stories about amounts, in three languages: sentence by sentence the same."""

import re
from dataclasses import dataclass

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

    code: str
    names: tuple[str, ...]
    things: tuple[str, ...]
    """Plurals that every sentence takes as they are."""
    start: str
    sentences: tuple[str, ...]
    """One of each event, with {name}, {things} and {n}."""
    question: str

    @property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """What the sentences look like; the only group of each is the amount."""
        return tuple(
            re.compile(
                re.escape(sentence)
                .replace(r"\{name\}", r"(?:\w+)")
                .replace(r"\{things\}", r"(?:\w+)")
                .replace(r"\{n\}", r"(\d+)")
            )
            for sentence in self.sentences
        )


ENGLISH = Language(
    "en",
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
    "de",
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
    "es",
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
