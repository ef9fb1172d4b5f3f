"""Pages by section. Modules import what they share from the package above, never from each other."""
