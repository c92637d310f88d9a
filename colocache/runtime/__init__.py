"""All that touches the system: threads, sockets, files, locks and the log."""
