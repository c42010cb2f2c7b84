"""A run as an HTTP service: OpenAI's completions, scores, the ladder at a place, and the explorer page."""
