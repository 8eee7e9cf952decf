"""How good a policy is: answering held-out problems, intervals, and the gate."""
