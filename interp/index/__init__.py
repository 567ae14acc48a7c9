"""The feature index: everything the feature pages show, computed once after training (``build_index``) and read
back in about a millisecond a feature (``FeatureIndex``). Importing this package never imports torch."""

from interp.index.build import IndexConfig, build_index
from interp.index.reader import FeatureIndex, is_stale

__all__ = ["FeatureIndex", "IndexConfig", "build_index", "is_stale"]
