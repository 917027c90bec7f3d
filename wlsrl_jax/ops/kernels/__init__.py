"""Kernels for CPUs in C++: ``cpu.cc``, its compilation and the calls from JAX."""
