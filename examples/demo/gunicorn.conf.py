"""gunicorn's settings for the demo. The cache needs none of them."""

import os

bind = os.environ.get("DEMO_BIND", "127.0.0.1:8000")
workers = int(os.environ.get("DEMO_WORKERS", "4"))
worker_class = "sync"
wsgi_app = os.environ.get("DEMO_APP", "app:application")
control_socket_disable = True  # because its place would be the user's home directory
