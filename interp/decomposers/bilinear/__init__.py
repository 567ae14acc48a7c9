"""Bilinear autoencoders."""
