"""From a radiograph to its normal counterpart and an attribution map; knows no DICOM tag.

Method: VALD-MD (arXiv 2401.01414), made a paired edit (InstructPix2Pix, arXiv 2211.09800).
"""
