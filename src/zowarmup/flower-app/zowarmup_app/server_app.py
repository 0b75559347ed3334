"""What `flwr run` runs on the server."""

from zowarmup.engines.grid import server_app
from zowarmup.serving import serve_config

app = server_app(serve_config)
