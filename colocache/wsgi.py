"""The middleware for WSGI applications: `CacheMiddleware`."""

from .integrations.wsgi import CacheMiddleware

__all__ = ["CacheMiddleware"]
