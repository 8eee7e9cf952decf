"""What rounds came to, for people."""
