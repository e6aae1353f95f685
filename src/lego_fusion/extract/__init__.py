"""Extractors: from video and its sidecars to features, with manifests that say how they were made."""
