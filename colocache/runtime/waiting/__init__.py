"""How threads, tasks and greenlets wait for what a driver answers, and how the driver's thread is started.

`answers` holds what is waited for. How a waiter sleeps, and how it is woken, is the matter of one module each:
`threads`, `tasks` and `greenlets`. Their ``wait`` takes the same arguments: a function that registers a waker, and a
time limit.

Nothing here takes a lock that another thread or greenlet can hold while it waits.
"""
