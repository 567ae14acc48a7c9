"""Methods that the others are held against."""
