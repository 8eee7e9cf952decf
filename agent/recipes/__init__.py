"""Published recipes, end to end: several trainings one after the other, each measured."""
