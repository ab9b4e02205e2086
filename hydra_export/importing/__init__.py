"""Checkpoints of others: where they lie, what they hold, and what is said of them."""
