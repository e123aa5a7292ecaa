"""How good the attribution is: localisation, fidelity, validity."""
