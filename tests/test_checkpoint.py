"""Checkpoints: there and back, and one clear line for every file that is not what was asked for."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tokenreel.models import checkpoint
from tokenreel.models.checkpoint import (
    CheckpointError,
    file_digest,
    list_tokenizers,
    load_checkpoint,
    load_tokenizer,
    read_metadata,
    save_checkpoint,
)
from tokenreel.models.interpolator import IFNet, InterpolatorConfig
from tokenreel.tokens import whole_files


@pytest.fixture
def folder(tiny_tokenizer, tmp_path):
    """A tokenizer and its codec on disk."""
    save_checkpoint(tmp_path / "a.safetensors", tiny_tokenizer.image, "image_tokenizer", "tiny")
    save_checkpoint(tmp_path / "b.safetensors", tiny_tokenizer.residual, "residual_codec", "tiny-residual")
    return tmp_path


def rewrite(path, *, tensors=None, **changed):
    """The checkpoint with other tensors or metadata; None drops an entry."""
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
        found = {key: file.get_tensor(key) for key in keys} | (tensors or {})
        meta = file.metadata() | changed
    save_file({k: v for k, v in found.items() if v is not None}, path, {k: v for k, v in meta.items() if v is not None})


def refusal(path, kind="image_tokenizer"):
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path, kind)
    message = str(error.value)
    assert message.startswith(path.name) and "\n" not in message and len(message) < 600
    return message


class TestBadConfigs:
    """Of any network, as NetworkConfig reads them; here that of the interpolator."""

    @pytest.fixture
    def path(self, tmp_path):
        net = IFNet(InterpolatorConfig(head=2, widths=(8, 8, 6, 4, 4)))
        save_checkpoint(tmp_path / "net.safetensors", net, "interpolator", "tiny")
        return tmp_path / "net.safetensors"

    @pytest.mark.parametrize(
        "config",
        [
            '{"head": 2}',
            '{"head": 2, "widths": 8}',
            '{"head": "2", "widths": [8, 8, 6, 4, 4]}',
            '{"head": 2, "widths": [8, 8, 6, "4", 4]}',
            '{"head": 2, "widths": [8, 8, 6, 4, 4], "depth": 3}',
            "[2, 8]",
        ],
    )
    def test_is_refused_in_one_line(self, path, config):
        rewrite(path, config=config)
        assert "does not fit its own config" in refusal(path, "interpolator")


class TestRoundTrip:
    def test_weights_and_config(self, tiny_tokenizer, folder):
        loaded = load_checkpoint(folder / "a.safetensors", "image_tokenizer")
        assert loaded.config == tiny_tokenizer.image.config and not loaded.training
        for name, value in tiny_tokenizer.image.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value.half().float()), name

    def test_saving_again_loses_nothing(self, folder):
        loaded = load_checkpoint(folder / "b.safetensors", "residual_codec")
        save_checkpoint(folder / "c.safetensors", loaded, "residual_codec", "tiny-residual")
        assert read_metadata(folder / "c.safetensors") == read_metadata(folder / "b.safetensors")
        with safe_open(folder / "b.safetensors", "pt") as one, safe_open(folder / "c.safetensors", "pt") as two:
            assert one.keys() == two.keys()
            assert all(torch.equal(one.get_tensor(key), two.get_tensor(key)) for key in list(one.keys()))

    def test_tokenizer_comes_with_its_codec_and_names(self, folder):
        tokenizer = load_tokenizer(folder / "a.safetensors")
        assert (tokenizer.id, tokenizer.codec_id) == ("tiny", "tiny-residual")
        assert tokenizer.digest == file_digest(folder / "a.safetensors")
        assert tokenizer.codec_digest == file_digest(folder / "b.safetensors")
        assert tokenizer.levels == (4, 3) and tokenizer.codebook_size == 12
        assert list_tokenizers(folder) == {"tiny": folder / "a.safetensors"}

    def test_file_names_mean_nothing(self, folder):
        (folder / "a.safetensors").rename(folder / "z_residual.safetensors")
        assert load_tokenizer(folder / "z_residual.safetensors").codec_id == "tiny-residual"

    def test_without_a_codec(self, folder):
        (folder / "b.safetensors").unlink()
        tokenizer = load_tokenizer(folder / "a.safetensors")
        assert tokenizer.residual is None and tokenizer.codec_id == tokenizer.codec_digest == ""

    def test_other_files_in_the_folder_do_no_harm(self, folder):
        save_file({"weight": torch.zeros(3)}, folder / "0_foreign.safetensors", {"format": "pt"})
        (folder / "1_broken.safetensors").write_bytes(b"nothing of the kind")
        assert list(list_tokenizers(folder)) == ["tiny"]
        assert load_tokenizer(folder / "a.safetensors").codec_id == "tiny-residual"

    def test_move_keeps_the_results(self, folder):
        tokenizer = load_tokenizer(folder / "a.safetensors").to(torch.device("cpu"))
        frames = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
        plain = load_checkpoint(folder / "a.safetensors", "image_tokenizer")
        with torch.inference_mode():
            assert torch.equal(tokenizer.image.encode(frames), plain.encode(frames))
        assert tokenizer.device == torch.device("cpu")

    def test_nothing_is_left_when_saving_fails(self, tiny_tokenizer, folder, monkeypatch):
        before = file_digest(folder / "a.safetensors")

        def fail(*_):
            raise OSError("disk full")

        monkeypatch.setattr(whole_files.os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(folder / "a.safetensors", tiny_tokenizer.image, "image_tokenizer", "other")
        assert file_digest(folder / "a.safetensors") == before
        assert sorted(path.name for path in folder.iterdir()) == ["a.safetensors", "b.safetensors"]


class TestCompanion:
    def test_the_codec_that_was_trained_with_it(self, tiny_tokenizer, folder):
        digest = file_digest(folder / "a.safetensors")
        for name, trained_with in (("a0", "0" * 64), ("c", digest)):
            path = folder / f"{name}.safetensors"
            save_checkpoint(path, tiny_tokenizer.residual, "residual_codec", name, trained_with=trained_with)
        assert load_tokenizer(folder / "a.safetensors").codec_id == "c"

    def test_none_of_another_tokenizer(self, tiny_tokenizer, folder):
        (folder / "b.safetensors").unlink()
        path = folder / "a0.safetensors"
        save_checkpoint(path, tiny_tokenizer.residual, "residual_codec", "a0", trained_with="0" * 64)
        assert load_tokenizer(folder / "a.safetensors").residual is None


class TestRefusals:
    def test_wrong_kind(self, folder):
        message = refusal(folder / "b.safetensors")
        assert "holds a residual_codec, but a image_tokenizer is needed" in message
        with pytest.raises(CheckpointError, match=r"b\.safetensors holds a residual_codec"):
            load_tokenizer(folder / "b.safetensors")

    @pytest.mark.parametrize("meta", [None, {"format": "pt"}, {"format": "tokenreel", "kind": "unet"}])
    def test_foreign_safetensors(self, tmp_path, meta):
        path = tmp_path / "sd.safetensors"
        save_file({"weight": torch.zeros(3)}, path, meta)
        assert "is not a TokenReel checkpoint" in refusal(path)

    @pytest.mark.parametrize("entry", ["name", "config", "kind", "format"])
    def test_missing_metadata(self, folder, entry):
        rewrite(folder / "a.safetensors", **{entry: None})
        assert "is not a TokenReel checkpoint" in refusal(folder / "a.safetensors")

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle in disguise", b"\xff" * 64])
    def test_no_safetensors(self, tmp_path, content):
        path = tmp_path / "weights.safetensors"
        path.write_bytes(content)
        assert "is not a readable safetensors file" in refusal(path)

    def test_truncated(self, folder):
        path = folder / "a.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        assert "is not a readable safetensors file" in refusal(path)

    def test_no_file_and_a_folder(self, folder):
        assert "is not a readable safetensors file" in refusal(folder / "nowhere.safetensors")
        (folder / "d.safetensors").mkdir()
        assert "is not a readable safetensors file" in refusal(folder / "d.safetensors")

    def test_missing_tensor(self, folder):
        rewrite(folder / "a.safetensors", tensors={"to_latent.bias": None})
        assert "to_latent.bias" in refusal(folder / "a.safetensors")

    def test_unknown_tensor(self, folder):
        rewrite(folder / "a.safetensors", tensors={"extra": torch.zeros(1)})
        assert "extra" in refusal(folder / "a.safetensors")

    def test_wrong_shape(self, folder):
        rewrite(folder / "a.safetensors", tensors={"to_latent.bias": torch.zeros(7)})
        assert "to_latent.bias" in refusal(folder / "a.safetensors")

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"depth": 3}, "depth"),
            ({"encoder_widths": [8, 32]}, "size mismatch"),
            ({"levels": [4]}, "size mismatch"),
            ({"heads": 3}, "Invalid heads"),
            ({"window": 0}, "Invalid window"),
            ({"decoder_widths": [8, 10**12]}, "Invalid decoder_widths"),
            ({"encoder_blocks": "many"}, "Invalid encoder_blocks"),
        ],
    )
    def test_wrong_config(self, folder, change, named):
        path = folder / "a.safetensors"
        config = json.loads(read_metadata(path)["config"])
        rewrite(path, config=json.dumps({**config, **change}))
        message = refusal(path)
        assert "does not fit its own config" in message and named in message

    @pytest.mark.parametrize("config", ["", "{", "[]", "null", '"x"', "3"])
    def test_config_that_is_none(self, folder, config):
        rewrite(folder / "a.safetensors", config=config)
        assert "does not fit its own config" in refusal(folder / "a.safetensors")

    def test_codec_of_another_alphabet(self, folder, tiny_tokenizer):
        shutil.copy(folder / "b.safetensors", folder / "c.safetensors")
        config = {**tiny_tokenizer.residual.config.to_dict(), "levels": (12,)}
        network, config_class = checkpoint.MODELS["residual_codec"]
        other = network(config_class.from_dict(config))
        save_checkpoint(folder / "c.safetensors", other, "residual_codec", "other")
        with pytest.raises(CheckpointError, match=r"c\.safetensors has the levels \(12,\), a.* has \(4, 3\)"):
            load_tokenizer(folder / "a.safetensors", folder / "c.safetensors")

    def test_no_weights_at_all(self, tmp_path, monkeypatch):
        monkeypatch.setattr(checkpoint, "list_tokenizers", lambda **_: {})
        with pytest.raises(CheckpointError, match="No key-frame tokenizer in weights"):
            load_tokenizer()
