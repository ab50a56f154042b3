"""What vault promises the other services."""
