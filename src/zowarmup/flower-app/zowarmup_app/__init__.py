"""The Flower app; `zowarmup.engines.flower` and `grid` have what it does."""
