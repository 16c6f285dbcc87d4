"""What a command prints when it has ended."""
