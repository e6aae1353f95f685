"""Any network of several modalities: what its layers share, what each holds alone. Knows nothing of detection."""
