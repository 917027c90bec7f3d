"""Many machines and one run: devices, processes, signals."""
