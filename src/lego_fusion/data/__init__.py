"""Files, time and videos: the dataset folder, decoding, segments, ground truth, and rendered scenes."""
