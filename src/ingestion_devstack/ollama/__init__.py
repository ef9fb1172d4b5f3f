"""A stand-in for Ollama over the real all-MiniLM-L6-v2 model. Product code does not belong here."""
