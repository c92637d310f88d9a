"""For FastAPI and Starlette: `get_cache`, a dependency, and `lifespan`. The middleware is `colocache.asgi`'s."""

from .integrations.fastapi import get_cache, lifespan

__all__ = ["get_cache", "lifespan"]
