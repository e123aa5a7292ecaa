"""Names of the result objects; light, for whoever makes none."""

from dicom_node.config import RESULTS

KINDS = RESULTS
"""As rules and jobs name them, in order; dicom_node.results.registry makes them."""
