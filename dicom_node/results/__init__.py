"""The result objects, one file each."""
