"""How each provider is spoken to. Inwards everything is OpenAI-shaped (`routing.upstream`)."""
