"""The command line: the jobs of the dock without a window."""
