"""Fusions: features by modality name in, one vector per node out, all behind the contract of ``base``."""
