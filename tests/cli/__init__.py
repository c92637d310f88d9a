"""The tests of the command ``colocache``."""
