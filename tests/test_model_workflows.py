"""The shipped workflows around a MODEL: on a real ComfyUI with small random models of the real classes."""

import json
import re
import urllib.request

import pytest
import torch
from comfyui_server import COMFYUI, comfyui_server, needs_comfyui, run_in_comfyui
from model_stand_ins import CORE_NODES, RANDOM_TEXT, SAVE_RANDOM_MODELS
from safetensors.torch import load_file
from shipped_workflows import BYPASSED, KNOWN, NAMES, NOTES, needs_model, opened, to_api_format

from tokenreel.host.runner import NodeError
from tokenreel.host.workflow import WorkflowError, apply_overrides
from tokenreel.video.reader import VideoReader

WAN, LTX, QUANTIZED = "07_wan_video_for_less", "08_ltx_video_for_less", "09_quantize_and_save_a_model"
REPOSITORIES = {
    "ltx-video-2b-v0.9.5.safetensors": "Lightricks/LTX-Video/resolve/main",
    "t5xxl_fp8_e4m3fn_scaled.safetensors": "comfyanonymous/flux_text_encoders/resolve/main",
}
MODEL_FILES = {WAN: 3, LTX: 2, QUANTIZED: 2}
SMALL = {  # a few small frames: the same path through the workflow, quickly
    WAN: [
        *("1.width=252", "1.height=190", "1.seconds=0.7", "1.least_short_side=95", "12.steps=4"),
        *("9.min_tokens=0", "9.density=0.1", "10.min_tokens=0", "10.threshold=-1", "21.steps=3"),
    ],
    LTX: [
        *("1.width=380", "1.height=286", "1.seconds=0.65", "1.least_short_side=190", "13.steps=4"),
        *("9.min_tokens=0", "9.density=0.1", "10.min_tokens=0", "10.threshold=-1", "24.steps=3"),
    ],
    QUANTIZED: ["10.width=128", "10.height=96", "10.length=13", "11.steps=2"],
}
FOR_LESS = {  # what the plan says; size, rate and frames of the video; layers in int8; tokens that the probe saw
    WAN: ("Make 128 x 96, 13 frames at 16 a second", (252, 190, 32, 26), 60, "192 tokens of video (4 x 6 x 8)"),
    LTX: ("Make 256 x 192, 17 frames at 25 a second", (380, 286, 50, 34), 60, "144 tokens of video (3 x 6 x 8)"),
}
FEW_BITS = (COMFYUI / "comfy" / "quant_ops.py").is_file()  # not in ComfyUI 0.3.64
QUANTIZING = [] if FEW_BITS else ["Quantize Model", "Report: fewer bits"]  # to bypass there, as the workflows say
each_with_model = pytest.mark.parametrize("name", [name for name in NAMES if needs_model(name)])


@each_with_model
class TestModelFiles:
    def test_editor_can_offer_what_is_missing(self, name):
        """Each name of a file in a loader has its link and its folder, and a note has them too."""
        graph = opened(name)
        notes = "".join(node["widgets_values"][0] for node in graph["nodes"] if node["type"] in NOTES)
        found = 0
        for node in graph["nodes"]:
            files = [value for value in node.get("widgets_values", []) if str(value).endswith(".safetensors")]
            assert [model["name"] for model in node["properties"].get("models", [])] == files
            for model in node["properties"].get("models", []):
                split = f"Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/{model['directory']}"
                repository = REPOSITORIES.get(model["name"], split)
                assert model["url"] == f"https://huggingface.co/{repository}/{model['name']}"
                assert f"({model['url']}) into `models/{model['directory']}`" in notes
                found += 1
        assert found == MODEL_FILES[name]


@needs_comfyui
@pytest.mark.comfyui
@pytest.mark.slow
class TestComfyUI:
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory):
        base = tmp_path_factory.mktemp("comfyui")
        run_in_comfyui(SAVE_RANDOM_MODELS, str(base / "models"))
        with comfyui_server(base, packs={"random_text": RANDOM_TEXT}) as running:
            yield running

    def run_with_models(self, server, name, bypassed=()):
        """With random weights, and what is muted as well."""
        graph = to_api_format(opened(name), with_muted=True, bypassed=bypassed)
        workflow = apply_overrides(graph, SMALL[name], KNOWN)
        for node in workflow.values():
            if node["class_type"] == "CLIPLoader":
                node["class_type"] = "LoadRandomText"
        return workflow, server.client.wait(server.client.submit(workflow), lambda event: None)

    @pytest.mark.parametrize("name", FOR_LESS)
    def test_video_for_less(self, server, name):
        """The video is as planned: its size, its rate, its frames. The model was made cheaper on all three ways."""
        start = len(server.log.read_text(errors="replace"))
        workflow, outputs = self.run_with_models(server, name, QUANTIZING)
        made, finished, layers, probed = FOR_LESS[name]
        assert made in outputs["1"]["text"][0]
        nodes = {node["class_type"]: node_id for node_id, node in workflow.items()}
        (saved,) = outputs[nodes["SaveVideo"]]["images"]
        with VideoReader(server.output / saved["subfolder"] / saved["filename"]) as video:
            frames = [chunk.frames for chunk in video.chunks()]
            rate = round(video.info.frame_rate, 2)  # with PyAV 14 Save Video copies in ticks of 1/90000 second
            assert (video.info.width, video.info.height, rate, sum(map(len, frames))) == finished
        assert frames[0].std() > 1
        (fidelity,) = outputs[nodes["TokenReel_ProbeFidelity"]]["text"]  # muted until it is wished
        assert fidelity.startswith(f"3 steps, {probed}\n")
        shown = [outputs[node_id]["text"] for node_id, node in workflow.items() if node["class_type"] == "PreviewAny"]
        assert [fidelity] in shown
        if FEW_BITS:
            (quantized,) = outputs[nodes["TokenReel_QuantizeModel"]]["text"]
            assert f"Linear layers: {layers} in int8\n" in quantized and [quantized] in shown
        log = server.log.read_text(errors="replace")[start:]
        for patch in ("Efficient Attention", "Merge Redundant Tokens"):
            assert max(map(int, re.findall(patch + r": (\d+) of \d+ calls patched", log))) > 0

    def test_quantized_and_saved(self, server):
        """What is saved opens in ComfyUI's own loader, and samples as the quantized model did."""
        if not FEW_BITS:
            with pytest.raises(NodeError, match=r"no layers in few bits. Update it to a version of 2026"):
                self.run_with_models(server, QUANTIZED)
            return
        workflow, outputs = self.run_with_models(server, QUANTIZED)
        assert "Linear layers: 60 in fp8\n" in outputs["2"]["text"][0] == outputs["5"]["text"][0]
        assert outputs["2"]["images"] and outputs["11"]["text"] == outputs["12"]["text"]
        assert outputs["11"]["text"][0].startswith("2 steps, 192 tokens of video (4 x 6 x 8)\n")
        name, size = outputs["4"]["text"][0].splitlines()
        assert name == "diffusion_models/wan2.1_t2v_1.3B_fp8_00001_.safetensors" and size.endswith("of float8_e4m3fn")
        saved, source = server.output / name, server.base / "models" / "diffusion_models"
        whole = next(source.glob("*.safetensors"))
        assert saved.stat().st_size < 0.6 * 2 * whole.stat().st_size  # on a CPU it was held in fp32
        (source / "small.safetensors").write_bytes(saved.read_bytes())
        again = {"unet_name": "small.safetensors", "weight_dtype": "default"}
        workflow["20"] = {"class_type": "UNETLoader", "inputs": again}
        sampler = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
        sockets = {"positive": ["8", 0], "negative": ["9", 0], "latent_image": ["10", 0]}
        workflow["40"] = {"class_type": "TokenReel_LoadModel", "inputs": {"model_name": f"{name} [output]"}}
        for number, model in (("21", "2"), ("22", "20"), ("23", "1"), ("24", "40")):
            taken = {**sampler, **sockets, "model": [model, 0]}
            workflow[number] = {"class_type": "KSampler", "inputs": taken}
            kept = {"samples": [number, 0], "filename_prefix": f"latents/of_{model}"}
            workflow[f"3{number}"] = {"class_type": "SaveLatent", "inputs": kept}
        server.client.wait(server.client.submit(workflow), lambda event: None)
        files = [next((server.output / "latents").glob(f"of_{model}_*")) for model in ("2", "20", "40", "1")]
        made, *loaded, dense = (load_file(path)["latent_tensor"] for path in files)
        assert all(torch.equal(made, each) for each in loaded)
        assert 0 < float((made - dense).norm() / dense.norm()) < 0.2

    @pytest.mark.skipif(not FEW_BITS, reason="this ComfyUI has no layers in few bits")
    def test_narrower_as_well(self, server):
        """With Prune Model, which is bypassed there, turned on as its note says."""
        graph = opened(QUANTIZED)
        (prune,) = (node for node in graph["nodes"] if node["type"] == "TokenReel_PruneModel")
        assert prune["mode"] == BYPASSED
        prune["mode"] = 0
        small = ["14.share=0.5", "14.steps=1", "3.filename_prefix=diffusion_models/narrow", "10.width=128"]
        workflow = to_api_format(graph, with_muted=True, bypassed=["Probe Fidelity", "Report: fidelity"])
        workflow = apply_overrides(workflow, [*small, "10.height=96", "10.length=5"], KNOWN)
        for node in workflow.values():
            if node["class_type"] == "CLIPLoader":
                node["class_type"] = "LoadRandomText"
        outputs = server.client.wait(server.client.submit(workflow), lambda event: None)
        saved = load_file(server.output / outputs["4"]["text"][0].splitlines()[0])
        widths = {len(saved[name]) for name in saved if name.endswith("ffn.0.weight")}
        assert widths == {128}  # of 256
        assert "Linear layers: 60 in fp8\n" in outputs["2"]["text"][0]

    def test_nodes_around_a_model_are_as_comfyui_lists_them(self, server):
        listed = json.loads(urllib.request.urlopen(f"{server.url}/object_info").read())
        for node_id, node in CORE_NODES.items():
            schema, there = node.GET_SCHEMA(), listed[node_id]
            names = [name for part in ("required", "optional") for name in there["input_order"].get(part, [])]
            kinds = {**there["input"].get("required", {}), **there["input"].get("optional", {})}
            kinds = {name: "COMBO" if isinstance(kind[0], list) else kind[0] for name, kind in kinds.items()}
            assert [(socket.id, socket.get_io_type()) for socket in schema.inputs] == [(n, kinds[n]) for n in names]
            assert [output.get_io_type() for output in schema.outputs] == there["output"]
            if FEW_BITS:  # the version that the workflows name
                assert schema.display_name == (there["display_name"] or node_id)
        files = {"UNETLoader": "unet_name", "VAELoader": "vae_name", "CheckpointLoaderSimple": "ckpt_name"}
        for name, file in files.items():
            (ours,) = next(socket for socket in CORE_NODES[name].GET_SCHEMA().inputs if socket.id == file).options
            assert ours in listed[name]["input"]["required"][file][0]

    def test_saved_models_are_listed_once_and_others_are_refused(self, server):
        """ComfyUI looks into output/diffusion_models itself, and its editor names files as it finds them there."""
        folder = server.output / "diffusion_models" / "mine"
        folder.mkdir(parents=True, exist_ok=True)
        source = next((server.base / "models" / "diffusion_models").glob("*.safetensors"))
        (folder / "copy.safetensors").write_bytes(source.read_bytes())
        (folder / "copy.gguf").write_bytes(b"GGUF")
        (folder / "half.safetensors").write_bytes(source.read_bytes()[:5000])
        listed = json.loads(urllib.request.urlopen(f"{server.url}/object_info/TokenReel_LoadModel").read())
        offered = listed["TokenReel_LoadModel"]["input"]["required"]["model_name"]
        names = offered[0] if isinstance(offered[0], list) else offered[1]["options"]
        assert [name for name in names if "copy" in name] == ["mine/copy.safetensors"] and source.name in names

        def run(name):
            loader = {"class_type": "TokenReel_LoadModel", "inputs": {"model_name": name, "fast": False}}
            shown = {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}}
            job = server.client.submit({"1": loader, "2": shown})
            return server.client.wait(job, lambda event: None)["2"]["text"][0]

        assert run("mine/copy.safetensors").startswith("copy.safetensors, ")
        for name, text in {
            "mine/half.safetensors": "half.safetensors is not a whole safetensors file. Fetch it again.",
            "mine/copy.gguf": "is not a .safetensors file, and others may run code",
            "../../input/x.safetensors": "No model '../../input/x.safetensors' in diffusion_models",
        }.items():
            with pytest.raises(WorkflowError, match=re.escape(text)):
                run(name)
