"""The supervisor of the embedded stack and the plans of its servers. A stand-in itself does not belong here."""
