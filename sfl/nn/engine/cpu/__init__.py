"""The engine for CPUs: C++ that is compiled on first use."""
