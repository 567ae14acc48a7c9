"""Activations on disk: what was captured, in shards that any HDF5 tool reads (``activations/FORMAT.md``)."""

from interp.manifest import Manifest, Shard
from interp.store.reader import ActivationStore, SiteSource
from interp.store.shard import ShardContent
from interp.store.source import ActivationSource, ArraySource
from interp.store.writer import StoreWriter

__all__ = [
    "ActivationSource",
    "ActivationStore",
    "ArraySource",
    "Manifest",
    "Shard",
    "ShardContent",
    "SiteSource",
    "StoreWriter",
]
