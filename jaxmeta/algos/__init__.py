"""One recipe per published algorithm: a config and its wiring."""
