"""The language model to look into: loading one, and the places in it that are read and written."""
