"""Fitting: options, what a fit reports to, the one gradient loop and its checkpoints."""
