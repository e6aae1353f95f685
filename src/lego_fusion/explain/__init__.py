"""What a model and its modalities do: contributions, interactions and similarity of any model handed in as a callable."""
