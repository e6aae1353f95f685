"""Metrics of detection, their intervals, and the record in which every number travels."""
