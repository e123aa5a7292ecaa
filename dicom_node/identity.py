"""Who we are, wherever the standard asks."""

MANUFACTURER = "VALD Node"
MODEL_NAME = "VALD Node"
IMPLEMENTATION_CLASS_UID = "2.25.111510305145899630745437632763733947083"
"""A random UUID, this implementation's for good (PS3.7 D.3.3.2)."""
IMPLEMENTATION_VERSION_NAME = "VALD_NODE"
