"""A run is the same whatever the process that launches it has set of torch's, and that is as it was afterwards."""

import contextlib

import pytest
import torch

import gdexp

WORDS = ["data=iris", "model=mlp", "model.hidden=[8]", "loss=cross_entropy", "trainer.epochs=3"]


@contextlib.contextmanager
def called(switch, value, before):
    switch(value)
    try:
        yield
    finally:
        switch(before)


SETTINGS = {
    "dtype": lambda: called(torch.set_default_dtype, torch.float64, torch.float32),
    "device": lambda: called(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "no grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "precision": lambda: called(torch.set_float32_matmul_precision, "medium", "highest"),
    "deterministic": lambda: called(torch.set_deterministic_debug_mode, "error", "default"),
}


def switches():
    return (
        *(torch.get_default_dtype(), torch.get_default_device().type, torch.is_grad_enabled()),
        *(torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision()),
        *(torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark, torch.get_num_threads()),
    )


@pytest.mark.parametrize("setting", SETTINGS)
def test_switch_of_the_host_is_not_inherited_and_stays(stocked, setting):
    plain = gdexp.launch(WORDS).train_loss[0]
    with SETTINGS[setting]():
        before = switches()
        assert gdexp.launch(WORDS).train_loss[0] == plain
        assert switches() == before
        with pytest.raises(ValueError, match="must be"):
            gdexp.launch(["trainer.epochs=0"])
        assert switches() == before


def test_several_processes_of_torchrun_are_refused(stocked, monkeypatch):
    """Each of them would record the run."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="torchrun started 2 processes"):
        gdexp.launch(WORDS)
    assert len(gdexp.runs()) == 0
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert len(gdexp.launch(WORDS)) == 1
