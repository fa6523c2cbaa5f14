"""Run folders: registry, configuration, loggers, provenance, signals and checkpoints."""
