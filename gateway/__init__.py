"""The hot role: agents' calls in, money held, upstream called, money settled, answer out."""
