"""From a model and text to a store of activations."""
