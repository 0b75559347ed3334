"""Federated training that includes the devices which can only run inference."""

__version__ = "0.1.0.dev0"
