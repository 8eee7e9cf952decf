"""Of agent/pictures/."""
