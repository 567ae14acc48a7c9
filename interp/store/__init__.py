"""Activations on disk: what was captured, in shards that any HDF5 tool reads (``activations/FORMAT.md``)."""
