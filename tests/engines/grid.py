"""Flower's grid in one process: nodes are calls of a ClientApp, made when the server looks for answers."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


class InProcess(Grid):
    """A grid whose nodes live in this process.

    Args:
        app: what every node runs.
        configs: the configuration of each node, by its id.

    Attributes:
        count: messages to nodes so far.
    """

    def __init__(self, app: ClientApp, configs: dict[int, dict[str, str | int | float | bool]]) -> None:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # Message() asks for them
        self._app, self._configs = app, configs
        self._pending: dict[str, Message] = {}
        self.count = 0

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    def create_message(self, *args: object, **more: object) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self._configs)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = []
        for message in messages:
            self.count += 1
            names.append(f"message-{self.count}")
            message.metadata.__dict__["_message_id"] = names[-1]
            self._pending[names[-1]] = message
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found = [self._pending.pop(name) for name in message_ids if name in self._pending]
        return [self._app(message, self.context(message.metadata.dst_node_id)) for message in found]

    def context(self, node: int) -> Context:
        return Context(run_id=1, node_id=node, node_config=self._configs[node], state=RecordDict(), run_config={})
