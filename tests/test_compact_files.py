"""Files of compact networks as others write them: any prefix, any scale, fp16; and what is none."""

import pytest
import torch
from safetensors.torch import save_file

from tokenreel.models.compact_files import PREFIXES, is_compact, load_compact
from tokenreel.models.upscaler import CompactUpscaler, UpscalerConfig


@pytest.fixture
def write(tmp_path):
    def write(state, prefix=""):
        path = tmp_path / "net.safetensors"
        save_file({prefix + key: value.contiguous() for key, value in state.items()}, path)
        return path

    return write


def state_of(scale=2, features=6, depth=2):
    return CompactUpscaler(UpscalerConfig(scale, features, depth)).state_dict()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(write, prefix):
    state = state_of()
    path = write(state, prefix)
    assert is_compact(path)
    net = load_compact(path)
    assert net.config == UpscalerConfig(2, 6, 2) and not net.training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(("scale", "features", "depth"), [(1, 5, 1), (2, 24, 8), (3, 4, 12), (4, 8, 3), (8, 3, 1)])
def test_sizes_are_seen(write, scale, features, depth):
    net = load_compact(write(state_of(scale, features, depth)))
    assert net.config == UpscalerConfig(scale, features, depth)
    assert net(torch.rand(1, 3, 5, 7)).shape == (1, 3, 5 * scale, 7 * scale)


def test_halves_become_whole(write):
    state = {key: value.half() for key, value in state_of().items()}
    assert all(value.dtype == torch.float32 for value in load_compact(write(state)).state_dict().values())


class TestOthers:
    def test_is_none(self, write):
        path = write({"conv.weight": torch.zeros(3)})
        assert not is_compact(path)
        with pytest.raises(ValueError, match=r"net\.safetensors holds no compact upscaler"):
            load_compact(path)

    def test_has_more_than_a_stack(self, write):
        assert not is_compact(write(state_of() | {"upsampler.weight": torch.zeros(3)}))

    def test_no_safetensors(self, tmp_path):
        (tmp_path / "a.safetensors").write_bytes(b"\x80\x02}q\x00.")
        with pytest.raises(ValueError, match=r"a\.safetensors is not a readable safetensors file"):
            is_compact(tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            load_compact(tmp_path / "missing.safetensors")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"body.0.weight": torch.zeros(6, 1, 3, 3)}, "1 colours in, 12 channels out"),
            ({"body.6.weight": torch.zeros(7, 6, 3, 3)}, "3 colours in, 7 channels out"),
            ({"body.0.weight": torch.zeros(600, 3, 1, 1)}, "600 features, 2 layers"),
            ({"body.0.weight": torch.zeros(6, 3, 5, 5)}, "size mismatch"),
            ({"body.2.bias": None}, "Missing key"),
            ({"body.900.weight": torch.zeros(1)}, "1 channels out"),
            ({"body.0.weight": torch.zeros(6)}, "0 colours in"),
        ],
    )
    def test_does_not_fit(self, write, change, message):
        state = {key: value for key, value in (state_of() | change).items() if value is not None}
        with pytest.raises(ValueError, match=message) as error:
            load_compact(write(state))
        assert "\n" not in str(error.value) and str(error.value).startswith("net.safetensors")
