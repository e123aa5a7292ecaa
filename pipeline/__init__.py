"""From a radiograph to its normal counterpart and an attribution map; knows no DICOM tag.

Method: VALD-MD (arXiv 2401.01414), made a paired edit (InstructPix2Pix, arXiv 2211.09800).
"""

import os

# OpenMP reads it as torch is loaded, which comes later. Its threads wait for each other at every
# layer: they would spin meanwhile, and beside other work a film took up to twenty times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
