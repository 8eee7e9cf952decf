"""Settings: what there is, where values come from, and what does not go together."""
