"""Training jobs: policy, critics, drafter, and the publication of their weights."""
