"""Throughput and reproduction; `results/` holds measured JSON with device, versions and commit."""
