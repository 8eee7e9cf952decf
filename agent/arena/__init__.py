"""Which of many policies is liked best: blind pairs of answers, votes, and a scale over them."""
