"""Runs: one trained decomposer each, with everything needed to train and to judge it again."""
