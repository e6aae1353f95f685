"""One training: bags of segments, a frozen stage, a learned stage, and the run folder that keeps both."""
