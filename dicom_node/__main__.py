"""python -m dicom_node is the command vald-node."""

from dicom_node.cli import main

main()
