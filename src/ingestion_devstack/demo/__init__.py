"""The end-to-end demo and its corpus. Code that tests or the stack use does not belong here."""
