"""What each service promises the others: messages, problems and a typed client. The only way between services."""
