"""For dogpile.cache: `Backend`, which regions know as ``"colocache"``, and `GroupInvalidation`."""

from .integrations.dogpile import Backend, GroupInvalidation

__all__ = ["Backend", "GroupInvalidation"]
