"""The streaming plane: the only code that imports bytewax."""
