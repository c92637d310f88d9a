"""How frameworks and servers hold a cache. Each module imports the one that it is for, and none is imported by default.

Users import them by shorter names: `colocache.wsgi`, `colocache.asgi`, `colocache.flask`, `colocache.fastapi`, ….
"""
