"""Run folders and what stands in them: registry, loggers, provenance, signals, checkpoints."""
