"""How a policy learns from what a round kept: one file a method."""
