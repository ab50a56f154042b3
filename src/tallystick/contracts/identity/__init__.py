"""What identity promises the other services and the operator."""
