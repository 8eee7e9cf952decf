"""Token generation over batches of states."""
