"""Keeps bytes, rows and states; knows neither pixels nor DICOM tags."""
