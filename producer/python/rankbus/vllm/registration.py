"""`register`, which vLLM calls in every process of a server, perhaps several times."""

import os
import uuid

from rankbus.vllm import sync_engine, worker
from rankbus.vllm.import_hook import when_imported
from rankbus.vllm.watch import count_error

WORKER_MODULE = "vllm.v1.worker.worker_base"
ENGINE_MODULE = "vllm.v1.engine.llm_engine"


def register():
    """Has the ranks and LLM() recorded. Imports nothing of vLLM: what it needs is wrapped when vLLM imports it."""
    try:
        # All processes of a server are one run. The first of them to come here is the one that starts the others.
        os.environ.setdefault("RANKBUS_RUN_ID", uuid.uuid4().hex)
        when_imported(WORKER_MODULE, worker.wrap)
        when_imported(ENGINE_MODULE, sync_engine.wrap)
    except Exception as error:
        count_error("anything of this process", error)
