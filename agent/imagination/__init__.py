"""New problems from old ones, and what keeps held-out ones out."""
