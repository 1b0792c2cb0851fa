"""Verdicts by other programs and other processes: time limits, failures, dead workers."""

from __future__ import annotations

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from own_verdicts import DiesOnce, dies, first_entry, sleeps

from daps_rl.data import SPLITS, load
from daps_rl.data.sound import Sound, sound_splits
from daps_rl.verdicts import Program, Spread, Stoi, make_verdicts

TRUTH, DECODED = torch.zeros(5, 2), torch.arange(10.0).view(5, 2)


def program(path: Path, body: str, timeout: float = 30.0) -> Program:
    path.write_text(f"import sys, time, numpy as np\nbatch = np.load(sys.argv[1])\n{body}\n")
    return Program([sys.executable, str(path)], timeout=timeout)


@pytest.mark.parametrize(
    "body",
    [
        "np.save(sys.argv[2], batch['decoded'].sum(1) - batch['truth'].sum(1))",
        "print('\\n'.join(map(str, batch['decoded'].sum(1))))",
    ],
)
def test_a_program_gives_numbers_in_a_file_or_line_by_line(tmp_path, body):
    scores = program(tmp_path / "p.py", body)(TRUTH, DECODED)
    assert scores.tolist() == [1.0, 5.0, 9.0, 13.0, 17.0]
    assert scores.dtype == np.float32


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit('no licence')", "exit code 1: no licence"),
        ("print(1.0)", r"must give 5 numbers, got an array of shape \[1\]"),
        ("print('five')", "something else than numbers"),
        ("open(sys.argv[2], 'w')", "something else than numbers"),
        ("", r"must give 5 numbers, got an array of shape \[0\]"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*input contained no data")
def test_a_program_that_fails_says_why(tmp_path, body, said):
    with pytest.raises(RuntimeError, match=said):
        program(tmp_path / "p.py", body)(TRUTH, DECODED)


def test_a_program_that_takes_too_long_is_killed_with_its_children(tmp_path):
    alive = tmp_path / "alive"
    child = (
        f"import time, pathlib\nwhile True:\n    pathlib.Path({str(alive)!r}).write_text('')\n    time.sleep(0.05)\n"
    )
    body = f"import subprocess\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="took more than 2 s"):
        program(tmp_path / "p.py", body, timeout=2.0)(TRUTH, DECODED)
    assert time.monotonic() - began < 10.0
    time.sleep(0.2)
    alive.unlink()  # it did run
    time.sleep(0.3)
    assert not alive.exists()


def pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))


def test_chunks_come_back_in_order():
    with ThreadPoolExecutor(2) as threads:
        assert Spread(first_entry, threads, chunks=3)(TRUTH, DECODED).tolist() == DECODED[:, 0].tolist()
    spread = Spread(first_entry, pool, chunks=9)
    assert spread(TRUTH, DECODED).tolist() == DECODED[:, 0].tolist()
    assert spread.retried == 0
    spread.close()
    made = Spread(first_entry, ThreadPoolExecutor, chunks=2)  # a class makes executors too
    assert made(TRUTH, DECODED).tolist() == DECODED[:, 0].tolist()
    made.close()


def test_a_dead_worker_is_an_error():
    spread = Spread(dies, pool, chunks=2)
    with pytest.raises(RuntimeError, match=r"2 of 2 chunks failed and 0 more may be tried again.*BrokenProcessPool"):
        spread(TRUTH, DECODED)
    with pool() as given, pytest.raises(RuntimeError, match="chunks failed"):
        Spread(dies, given, chunks=2)(TRUTH, DECODED)


def test_a_dead_worker_is_a_counted_retry_in_a_new_pool(tmp_path):
    spread = Spread(DiesOnce(tmp_path / "mark"), pool, chunks=2, retries=2)
    assert spread(TRUTH, DECODED).tolist() == DECODED[:, 0].tolist()
    assert 1 <= spread.retried <= 2
    spread.close()


def test_a_worker_that_hangs_is_waited_for_no_longer_than_said():
    spread, began = Spread(sleeps, pool, chunks=2, timeout=0.5), time.monotonic()
    with pytest.raises(RuntimeError, match=r"chunks failed.*TimeoutError"):
        spread(TRUTH, DECODED)
    assert time.monotonic() - began < 10.0
    assert spread.executor is None  # its processes do not keep Python from ending


@pytest.mark.slow
def test_two_worker_processes_of_dask(tmp_path):
    """A chunk whose worker dies is tried again, and counted; one whose workers always die is an error."""
    distributed = pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        executor = client.get_executor()
        assert Spread(first_entry, executor, chunks=2)(TRUTH, DECODED).tolist() == DECODED[:, 0].tolist()
        once = Spread(DiesOnce(tmp_path / "mark"), executor, chunks=2, retries=2, timeout=60.0)
        assert once(TRUTH, DECODED).tolist() == DECODED[:, 0].tolist()
        assert 1 <= once.retried <= 2
        with pytest.raises(RuntimeError, match="1 of 1 chunks failed"):
            Spread(dies, executor, chunks=1, timeout=60.0)(TRUTH, DECODED)


def test_stoi_of_the_same_sound_is_one_and_of_noise_less():
    pytest.importorskip("pystoi")
    sound = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    sound *= torch.linspace(0.0, 60.0, 8000).sin().abs()  # something that comes and goes
    noise = torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    stoi = Stoi(lambda data: data.numpy(), sample_rate=8000)
    np.testing.assert_allclose(stoi(sound, sound), [1.0, 1.0], atol=1e-6)
    apart = [stoi(sound[i : i + 1], noise[i : i + 1])[0] for i in (0, 1)]
    assert max(apart) < 0.5
    twice = [part.repeat_interleave(2, 0) for part in (sound, noise)]
    assert stoi(*twice) == [apart[0], apart[0], apart[1], apart[1]]
    assert stoi(sound[:, :2000], sound[:, :2000]) == [1e-5, 1e-5]  # a quarter of a second; no warning


def test_stoi_by_name_listens_to_sounds_alone():
    pytest.importorskip("pystoi")
    kind = Sound.of(8000, 1.0)
    waves = torch.randn(12, 8000, generator=torch.Generator().manual_seed(0)) * torch.linspace(0, 60, 8000).sin().abs()
    splits = sound_splits("hum", kind, dict.fromkeys(SPLITS, kind.from_waveform(0.1 * waves)), {})
    verdicts = make_verdicts(("stoi:3",), splits)
    assert verdicts is not None
    x = splits.test[:3]
    scores = verdicts.scores(torch.stack((x[0], x[1], x[0])), x)["stoi"]
    assert scores[:2].tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert scores[2] < 0.6
    with pytest.raises(ValueError, match="reward 'stoi' listens to sounds, and digits has none; take sounds"):
        make_verdicts(("stoi",), load("digits"))


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [("ssim:0", "iris", "ssim needs pictures"), ("edit-distance:0", "digits", "whole numbers")],
)
def test_what_a_verdict_cannot_read_is_said_before_a_run(name, data, said):
    with pytest.raises(ValueError, match=said):
        make_verdicts((name,), load(data))
