"""What a model and its modalities do: terms, contributions, information, similarity."""
