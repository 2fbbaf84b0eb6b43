"""The session folder on the disk: what it holds, how it is written while a person paints, and how it is read again."""
