"""Data: where samples come from, who holds them, and how they reach a device.

>>> from zowarmup.recipe import Data
>>> settings = Data(source="digits", clients=20, high_resource=0.2)
>>> dataset = load(settings, seed=0)
>>> federation = federate(settings, dataset, seed=0)
>>> len(federation.clients), len(federation.members("high")), set(federation.sizes.tolist())
(20, 4, {60})
>>> x, y = Samples(dataset.train).batch(federation.clients[0].train[:16])
>>> tuple(x.shape), tuple(y.shape)
((16, 64), (16,))
"""

from zowarmup.data.dataset import Dataset, Split, from_arrays
from zowarmup.data.federation import ClientData, Federation, federate
from zowarmup.data.fetch import fetch
from zowarmup.data.own import alone, load_own
from zowarmup.data.partition import partition
from zowarmup.data.samples import Samples
from zowarmup.data.sources import digits, load

__all__ = [
    "ClientData",
    "Dataset",
    "Federation",
    "Samples",
    "Split",
    "alone",
    "digits",
    "federate",
    "fetch",
    "from_arrays",
    "load",
    "load_own",
    "partition",
]
