"""Manifolds in the latents of a bilinear autoencoder: which latents show one, and whether a label lies along it.

``build.build_manifolds`` looks once and writes ``manifolds.h5`` into the run's folder; ``reader.ManifoldIndex`` reads it.
"""
