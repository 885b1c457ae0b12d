"""Budgets: who may spend how much, what is held and spent now, and the one atomic decision about a call."""
