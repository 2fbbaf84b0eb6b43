"""What happens between the viewer and the session."""
