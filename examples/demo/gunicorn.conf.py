"""gunicorn's settings for the demo. Nothing here is needed by the cache."""

import os

bind = os.environ.get("DEMO_BIND", "127.0.0.1:8000")
workers = int(os.environ.get("DEMO_WORKERS", "4"))
worker_class = "sync"
wsgi_app = os.environ.get("DEMO_APP", "app:application")
control_socket_disable = True  # it would be made in the user's home
