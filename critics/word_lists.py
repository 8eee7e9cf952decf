"""Words that decide whether an equation in prose can be judged."""


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


OPERATION_WORDS = words_of(
    """
    twice thrice half double triple quadruple times plus minus over log ln sin cos tan cot sec
    root cube square power factorial mod modulo than third thirds quarter quarters fifth sixth
    seventh eighth ninth tenth percent negative lg exp max min gcd lcm abs floor ceil
    """
)
"""Words before a number that make it another one."""
PARTS = words_of(
    """
    half third thirds quarter quarters fifth fifths sixth sixths seventh eighth eighths ninth
    tenth tenths hundredth percent percentage root square cube power log multiple product sum
    average mean difference twice double triple ratio remainder factorial logarithm
    """
)
"""Words that make something else of what follows them with "of"."""
BEHIND = words_of(
    """
    times plus minus over squared cubed factorial divided multiplied mod modulo remainder
    hundred thousand million billion trillion dozen percent percentage k m bn th st nd rd r pi
    degrees degree or to half halves thirds quarters fourths fifths sixths eighths tenths
    hundredths pm am o'clock lakh crore
    """
)
"""Words behind a number that make it another one."""
SCALES = frozenset(["hundred", "thousand", "million", "billion", "trillion", "dozen", "k"])
UNIT_JOINTS = frozenset(("per", "a", "an", "each", "every", "the", "of", "in", "for", "s"))
FACTORS = frozenset((7, 12, 16, 24, 52, 60, 100, 168, 365, 1000, 1440, 3600))
"""Between two units of one measure."""
LETTERS = frozenset(("a", "A", "I"))
PROSE = words_of(
    """
    because is are was were so and that then thus has have had gives gets get makes make since
    if when but which he she it they we you i who would will can must where while after before
    to from with at on by as than therefore hence equals equal total be do does did
    """
)
"""Words that are no part of a unit."""
NAMED = words_of(
    """
    day week month year number no page chapter level step grade class room part group team round
    game lesson problem question equation line case test quiz days weeks months years
    """
)
"""Words that make a name of the number behind them: on day 1."""
FAMILIES = tuple(
    words_of(names)
    for names in (
        "second sec s minute min hour hr h day week fortnight month year decade century",
        "inch in foot feet ft yard yd mile mi mm cm m km meter metre kilometer kilometre centimeter"
        " centimetre millimeter acre hectare",
        "ounce oz pound lb ton tonne g kg mg gram kilogram kilo stone",
        "cup pint quart qt gallon gal ounce liter litre l ml teaspoon tsp tablespoon tbsp"
        " milliliter millilitre",
        "$ dollar buck cent penny pence nickel dime quarter ¢ euro £ € pound rupee paisa paise",
        "bit byte kb mb gb tb kilobyte megabyte gigabyte terabyte",
        "pair dozen single item piece pack six-pack slice pizza box",
    )
)
"""Units of one measure: two of them in an equation may stand for a conversion."""
