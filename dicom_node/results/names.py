"""Names of the result objects; light, for whoever makes none."""

KINDS = ("secondary_capture", "structured_report")
"""As rules and jobs name them; dicom_node.results.registry makes them."""
