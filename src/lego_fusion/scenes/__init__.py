"""Rendered scenes: videos of a walkway with a known answer, from a seed alone."""
