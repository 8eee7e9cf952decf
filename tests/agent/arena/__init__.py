"""Of agent/arena/."""
