"""Runs in the peer's environment: log-likelihoods by lm-evaluation-harness's HF model.

Reads JSON lines from standard input, one command each: {"pairs": [[context, continuation], …]}; answers each with one
line {"seconds": float, "scores": [[log-likelihood, is greedy], …]}. Its arguments: checkpoint folder, batch size.
"""

import json
import logging
import sys
import time

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

logging.disable(logging.INFO)
answers = sys.stdout
sys.stdout = sys.stderr
model = HFLM(pretrained=sys.argv[1], dtype="float32", device="cpu", batch_size=int(sys.argv[2]))
print(json.dumps({"ready": True}), file=answers, flush=True)
for line in sys.stdin:
    pairs = json.loads(line)["pairs"]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=(context, continuation), idx=index)
        for index, (context, continuation) in enumerate(pairs)
    ]
    began = time.perf_counter()
    scores = model.loglikelihood(requests, disable_tqdm=True)
    seconds = time.perf_counter() - began
    print(
        json.dumps({"seconds": seconds, "scores": [[float(a), bool(b)] for a, b in scores]}), file=answers, flush=True
    )
