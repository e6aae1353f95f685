"""lego-fusion: fuse feature sets by their relations, find what is abnormal in video, and show why."""

__version__ = "0.1.0"
