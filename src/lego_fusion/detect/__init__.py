"""From bags to a detector: video-level labels in, segment and frame scores out."""
