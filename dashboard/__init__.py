"""The management surface: what is spent, budgets, keys, models. Knows HTTP; never the gateway."""
