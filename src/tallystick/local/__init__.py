"""One machine: the real parts and the services, supervised by one command."""
