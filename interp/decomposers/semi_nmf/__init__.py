"""Semi-non-negative matrix factorisation."""
