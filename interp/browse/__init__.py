"""What a person reads of stores and runs: their contents, a prompt, a feature's neurons, a hierarchy."""
