"""Benchmarks; `results/` holds measurements and reproductions as JSON, with device, versions and commit."""
