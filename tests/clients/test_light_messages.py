"""A SuperNode starts a process for each message, and the import of PyTorch takes seconds."""

import subprocess
import sys

import numpy as np
import torch

from fl_market.digests import digest_of_bytes
from fl_market.parameters import digest

QUERIES = """
import sys
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from clients.client_app import app
from fl_market.protocol import Offer, PublicPrice, QuoteRequest, to_columns

TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1

def send(kind, **records):
    message = Message(RecordDict(records), dst_node_id=1, message_type=kind)
    message.metadata.__dict__["_message_id"] = "1"
    reply = app(message, context)
    assert reply.has_content(), reply.error

node = {"partition-id": 0, "agent-dir": sys.argv[1], "spending-limit": 3.0}
context = Context(1, 1, node, RecordDict(), {"learn-prior": True})
offer = Offer("7/x", "x", "all", 0.5, 0.4, 0.3, "")
send("query.identify")
send("query.offer", offers=ConfigRecord(to_columns([offer])))
send("query.quote", quotes=ConfigRecord(to_columns([QuoteRequest("7/x", "all")])),
     prices=ConfigRecord(to_columns([PublicPrice(5)])))
send("query.delivery", sealed=ArrayRecord({"w": Array(np.array([1, 2], dtype=np.uint8))}))
print(*sorted({"torch", "scipy"} & set(sys.modules)))
"""


def test_bids_asks_and_acknowledgements_import_no_pytorch(tmp_path):
    command = [sys.executable, "-c", QUERIES, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch" not in done.stdout


def test_the_digest_of_bytes_is_that_of_their_tensors():
    arrays = {
        name: np.arange(size, dtype=np.uint8).reshape(shape) for name, size, shape in (("b", 6, (2, 3)), ("a", 0, (0,)))
    }
    assert digest_of_bytes(arrays) == digest({name: torch.from_numpy(array) for name, array in arrays.items()})
