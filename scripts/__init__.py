"""Entry points: nothing in the packages imports them."""
