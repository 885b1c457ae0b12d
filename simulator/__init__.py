"""A simulated Databricks model-serving endpoint: its paths, shapes and errors, its own bill."""
