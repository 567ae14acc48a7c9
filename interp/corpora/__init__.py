"""Text to token sequences: where documents come from, how they are labelled, and how they are packed into sequences."""
