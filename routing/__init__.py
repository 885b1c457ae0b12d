"""Routes and models, the chooser, the health of endpoints, and the adapters that call upstreams."""
