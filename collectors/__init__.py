"""What outside systems say of usage and cost."""
