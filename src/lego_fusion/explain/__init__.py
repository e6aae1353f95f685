"""What a model and its modalities do: shares, contributions, information, similarity, and how far to trust them."""
