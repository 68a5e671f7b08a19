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


UNHEARD = [["hydra/launcher=joblib"], ["hydra.job.chdir=true"], ["--config-dir=x"], ["--config-dir", "x"], ["--help"]]
UNHEARD += [["hydra.run.dir=out"], ["+hydra.job.env_set.A=b"], "trainer.epochs=1", [3], ["experiments=far"]]


@pytest.mark.parametrize("words", UNHEARD)
def test_words_that_only_the_command_hears_are_refused_by_name(stocked, words):
    (stocked / "experiments").mkdir()
    (stocked / "experiments/far.yaml").write_text("# @package _global_\nhydra:\n  job:\n    chdir: true\n")
    name = {"experiments=far": "hydra.job.chdir=True"}.get(words[0], words[0]) if isinstance(words, list) else words
    with pytest.raises(ValueError, match="for the command line|list of words") as refused:
        gdexp.launch(words)
    assert str(name) in str(refused.value) and len(str(refused.value).splitlines()) == 1
    assert len(gdexp.runs()) == 0


def test_flag_of_a_sweep_is_heard(stocked):
    assert len(gdexp.launch(["-m", "optimizer.lr=0.01,0.02", "trainer.epochs=1"])) == 2
