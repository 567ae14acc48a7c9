"""Methods that the others are held against, a file each. ``sample`` has the rows that some of them learn from."""
