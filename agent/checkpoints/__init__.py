"""Checkpoints: their files, their rows in the store, and which ones a run goes on with."""
