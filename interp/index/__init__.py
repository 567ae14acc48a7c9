"""The feature index: everything the feature pages show, computed once after training (``build``) and read back in about a
millisecond a feature (``reader``)."""
