"""The panels of the dock *MLB-Seg*, top to bottom in the order of work."""
