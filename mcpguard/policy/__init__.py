"""Pure decisions: who may do what, how often, and what they may see."""
