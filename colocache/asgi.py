"""The middleware for ASGI applications: `CacheMiddleware`."""

from .integrations.asgi import CacheMiddleware

__all__ = ["CacheMiddleware"]
