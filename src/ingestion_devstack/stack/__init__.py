"""The supervisor of the embedded stack and the plans of its servers; the stand-ins are packages of their own."""
