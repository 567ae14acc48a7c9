"""Metric suites: reconstruction, concept detection, steering, and the table over runs.

Importing this package imports nothing; ``interp.evaluation.table`` needs no torch.
"""
