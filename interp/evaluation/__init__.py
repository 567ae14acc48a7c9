"""Metric suites: reconstruction, concept detection, steering, stability, and the table over runs."""
