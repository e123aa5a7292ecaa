"""Training of every part of a model folder, from a manifest and image archives."""
