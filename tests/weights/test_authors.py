"""Checkpoints of the authors' code: what is read, and what is refused."""

import argparse

import pytest
import torch

from gigacli.errors import Mismatch, NotFound
from gigacli.weights.authors import gigassl_from_state, read_gigassl


def test_a_file_like_the_authors(tmp_path, authors_checkpoint):
    path, encoder = authors_checkpoint(tmp_path / "ckpt.pth")
    loaded = read_gigassl(path)
    assert (loaded.width_in, loaded.width, loaded.training) == (256, 512, False)
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_refusals(tmp_path, capsys, authors_checkpoint):
    with pytest.raises(NotFound):
        read_gigassl(tmp_path / "none.pth")
    torch.save({"state_dict": {}, "config": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(Mismatch, match="pickled code is not run"):
        read_gigassl(tmp_path / "evil.pth")
    assert capsys.readouterr().out == ""
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(Mismatch, match="cannot be read"):
        read_gigassl(tmp_path / "text.pth")
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "resnet.pth")
    with pytest.raises(Mismatch, match=r"conv1\.weight"):
        read_gigassl(tmp_path / "resnet.pth")
    authors_checkpoint(tmp_path / "good.pth", 8, 16)
    with torch.serialization.safe_globals([argparse.Namespace, (argparse.Namespace, "arguments.Namespace")]):
        state = torch.load(tmp_path / "good.pth", weights_only=True)["state_dict"]
    name = "sparse_pooling.0.1.norm2.bias"
    for wrong, says in (
        (
            {k: torch.zeros(5) if k.endswith(name) else v for k, v in state.items()},
            r"1\.norm2\.bias is \(5,\), expected \(16,\)",
        ),
        ({**state, f"backbone.{name}": torch.ones(16)}, "twice, with other values"),
        ({k: v for k, v in state.items() if not k.endswith(name)}, r"1\.norm2\.bias is missing"),
        ({**state, "backbone.sparse_pooling.0.2.conv1.weight": torch.zeros(1)}, r"2\.conv1\.weight is not expected"),
        ({k: v * torch.nan if k.endswith("norm1.weight") else v for k, v in state.items()}, "not finite"),
    ):
        with pytest.raises(Mismatch, match=says):
            gigassl_from_state(wrong, origin="x")
