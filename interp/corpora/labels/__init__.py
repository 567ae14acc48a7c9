"""Label sets: what each character of a text is, without a model."""
