"""Where a task runs: a job is a folder, a worker process and a stream of events. No torch, no Qt in this process."""
