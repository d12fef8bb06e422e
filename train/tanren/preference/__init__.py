"""Preference optimisation: of two answers to a prompt one becomes likelier than the other."""
