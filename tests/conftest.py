"""Fixtures that several rooms' tests share: the public data sets, a tiny checkpoint, a real Triton.

Also what makes a test mean the same on every machine: it takes nothing from the shell.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from services.runtime.free_ports import free_port
from services.standalone.postgres_server import PostgresServer, running_postgres
from tests.production_stores import production_stores

# Every run draws the same examples, however slow the machine is; `make fuzz` draws new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")

_LOOPBACK = "127.0.0.1,localhost,::1"
_OF_THE_TERMINAL = (
    "CLICOLOR_FORCE",
    "COLUMNS",
    "FORCE_COLOR",
    "LINES",
    "NO_COLOR",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
)


def _forget_the_shell() -> None:
    """Undo what a shell or a build server hands to its jobs and would change what the tests see."""
    # A job in the background may get these ignored, and so would every process that a test starts and interrupts. A
    # handler is not inherited by programs, and this process still ignores them.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for name in _OF_THE_TERMINAL:
        os.environ.pop(name, None)
    if os.environ.get("TERM") in ("dumb", "unknown"):
        del os.environ["TERM"]
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), _LOOPBACK)))
    # Threads that wait for each other must not hold the cores that others need. Read when torch is first imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


_forget_the_shell()

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}{% if not loop.last or message['role'] != 'assistant' %}"
    "{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog. What is 2 + 3? The answer is 5.",
    "Question: Which planet is the largest? A. Mars B. Jupiter C. Venus D. Earth Answer: B",
    "Ein schöner Tag – naïve café, 東京 and Ελλάδα 🙂 are here to make some bytes.",
]


@dataclass(frozen=True)
class InferenceHost:
    """A running inference host: where it listens, the key for loading models, where its metrics and files are."""

    target: str
    key: str
    key_file: Path
    metrics_target: str
    state_dir: Path
    pid: int


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the public data sets; its tests are skipped where there is none."""
    told = os.environ.get("EVALFLEET_DATA_DIR")
    folder = Path(told) if told else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no public data sets in {folder}; set EVALFLEET_DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def checkpoint_factory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Make a random Llama checkpoint of a few thousand parameters with tokenizer and chat template, by seed."""
    made: dict[int, Path] = {}

    def make(seed: int) -> Path:
        if seed not in made:
            made[seed] = _write_tiny_checkpoint(tmp_path_factory.mktemp(f"tiny-{seed}"), seed)
        return made[seed]

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(checkpoint_factory: Callable[[int], Path]) -> Path:
    """Folder of a tiny random Llama checkpoint: 256 tokens of context, float32, chat template."""
    return checkpoint_factory(7)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A tiny random BERT without a head, 40 positions, with the tiny tokenizer (which pads with EOS)."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(folder)
    return folder


def _write_tiny_checkpoint(folder: Path, seed: int) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", additional_special_tokens=special[2:]
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.4,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    assert "model_type" in json.loads((folder / "config.json").read_text())
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL, shared by the tests of a session: each takes a database of its own."""
    with running_postgres() as server:
        if server is None:
            pytest.skip("needs PostgreSQL (Debian: apt-get install postgresql)")
        yield server


@pytest.fixture(scope="session", autouse=True)
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give every fleet PostgreSQL and Redis, as in production, where EVALFLEET_TEST_STORES says so."""
    told = os.environ.get("EVALFLEET_TEST_STORES", "")
    if not told:
        yield
        return
    assert told == "production", f"EVALFLEET_TEST_STORES={told}: write production"
    with production_stores(tmp_path_factory.mktemp("stores")):
        yield


@pytest.fixture(scope="session")
def triton(inference_hosts: Callable[[str], InferenceHost]) -> InferenceHost:
    """The real Triton, on free ports, shared by all integration tests: load models under names of your own."""
    return inference_hosts("triton")


@pytest.fixture(scope="session")
def inference_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], InferenceHost]]:
    """Start inference hosts by kind (``triton``, ``local``), each at most once; all are stopped at the end."""
    processes: list[subprocess.Popen[bytes]] = []
    hosts: dict[str, InferenceHost] = {}

    def start(kind: str) -> InferenceHost:
        if kind not in hosts:
            if kind == "triton":
                _skip_without_triton()
            state_dir = tmp_path_factory.mktemp(f"inference-{kind}")
            process, metrics_port = _start_inference_host(kind, state_dir)
            processes.append(process)
            hosts[kind] = _wait_for_inference_host(process, state_dir, metrics_port)
        return hosts[kind]

    yield start
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        assert process.wait(timeout=90) == 0


def _skip_without_triton() -> None:
    from services.inference.platform_checks import TritonUnavailableError, check_platform, gather_platform_facts

    try:
        check_platform(gather_platform_facts())
    except TritonUnavailableError as error:
        pytest.skip(error.message)


def _start_inference_host(kind: str, state_dir: Path) -> tuple["subprocess.Popen[bytes]", int]:
    metrics_port = free_port("127.0.0.1")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("EVALFLEET_")},
        "EVALFLEET_INFERENCE": kind,
        "EVALFLEET_PORT": "0",
        "EVALFLEET_METRICS_PORT": str(metrics_port),
        "EVALFLEET_STATE_DIR": str(state_dir),
        "EVALFLEET_READY_FILE": str(state_dir / "ready"),
        "EVALFLEET_PARENT_PID": str(os.getpid()),
        "EVALFLEET_DRAIN_DELAY_SECONDS": "0",
    }
    with (state_dir / "host.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.inference"], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    return process, metrics_port


def _wait_for_inference_host(
    process: "subprocess.Popen[bytes]", state_dir: Path, metrics_port: int, *, timeout_seconds: float = 240
) -> InferenceHost:
    deadline = time.monotonic() + timeout_seconds
    ready, key_file = state_dir / "ready", state_dir / "model-control.key"
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the inference host did not start:\n{(state_dir / 'host.log').read_text()}")
        time.sleep(0.1)
    return InferenceHost(
        target=ready.read_text().strip(),
        key=key_file.read_text(),
        key_file=key_file,
        metrics_target=f"127.0.0.1:{metrics_port}",
        state_dir=state_dir,
        pid=process.pid,
    )
