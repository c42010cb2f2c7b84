"""A run as an HTTP service: OpenAI's completions, scores, predictions of every layer, and the explorer page."""
