"""Interruptions: exceptions, cancellations, and handlers that use the cache, at each line or instruction of each call.

- `points`: where something comes, in a thread that is traced;
- `kinds`: what comes there;
- `operations`: the calls that are interrupted;
- `process`: a process that is interrupted, or that looks on from beside;
- `crew`: these processes, on one host or on two, and what is asked of them;
- `broken`: processes without one of their guardians, which must be noticed;
- `campaign`: all operations, kinds and points, and the report: ``make interruptions``.
"""
