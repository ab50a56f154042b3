"""The services. None imports another: only its contract in `tallystick.contracts`."""
