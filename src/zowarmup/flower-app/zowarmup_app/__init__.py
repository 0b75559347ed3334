"""The Flower app; `zowarmup.engines.flower` has what it does."""
