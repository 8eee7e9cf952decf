"""A run and its rounds: the stages, and what watches over them."""
