"""What every service needs and none owns; no module here knows a service. See `docs/explanation/chassis.md`."""
