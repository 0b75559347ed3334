"""What `flwr run` runs on a node."""

from zowarmup.engines.flower import client_app

app = client_app()
