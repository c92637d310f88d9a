"""gunicorn's settings for the matrix of servers; the rest is on its command line. Nothing is needed by the cache."""

control_socket_disable = True  # it would be made in the user's home
graceful_timeout = 10
