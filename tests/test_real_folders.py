"""Folders as the hub has them and users make them: older names of settings, a model beside an adapter, torchvision."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoImageProcessor

from saei.adapters import save_adapter
from saei.config import DataConfig, ModelConfig
from saei.families import FAMILIES, pillow
from saei.policy import load_policy
from saei.tiny import model_dir
from tests import family_models

CPU = ModelConfig(device="cpu")
DATA = DataConfig()


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(model_dir(), tmp_path / "model"))


def test_the_saved_processor_has_the_runs_pixel_limits_where_the_hubs_has_min_and_max_pixels(folder, tmp_path):
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    del settings["size"]  # as in Qwen/Qwen2.5-VL-7B-Instruct
    path.write_text(json.dumps({**settings, "min_pixels": 3136, "max_pixels": 12845056}))
    policy = load_policy(replace(CPU, path=str(folder)), DATA)
    policy.save(tmp_path / "saved")
    for processor in (policy.image_processor, AutoImageProcessor.from_pretrained(tmp_path / "saved")):
        assert (processor.size.shortest_edge, processor.size.longest_edge) == (DATA.min_pixels, DATA.max_pixels)


@pytest.mark.parametrize("name", FAMILIES)
def test_images_are_resized_by_pillow_whatever_is_installed(name, tmp_path, monkeypatch):
    asked = []

    class Recording:
        @staticmethod
        def from_pretrained(source, **options):
            asked.append(options.get("backend"))
            return AutoImageProcessor.from_pretrained(source, **options)

    monkeypatch.setattr(pillow, "AutoImageProcessor", Recording)
    FAMILIES[name].processor(family_models.build(name, tmp_path / name), DATA.min_pixels, DATA.max_pixels)
    assert asked and set(asked) == {"pil"}


def test_a_folder_with_a_model_and_an_adapter_is_refused(folder, tmp_path):
    trained = load_policy(replace(CPU, lora_rank=2, lora_targets=("q_proj",)), DATA)
    save_adapter(trained.model, tmp_path / "adapter")
    for file in (tmp_path / "adapter").iterdir():
        shutil.copy(file, folder)
    with pytest.raises(ValueError, match=r"holds a model and an adapter, adapter_config.json, .* a folder of its own"):
        load_policy(replace(CPU, path=str(folder)), DATA)


def test_weights_that_wait_on_the_cpu_for_their_gpu_have_the_gpus_attention(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    policy = load_policy(ModelConfig(attention="flex", device="cuda:0"), DATA, held_on="cpu")
    assert policy.device.type == "cpu"
    assert policy.model.config.get_text_config()._attn_implementation == "saei_flex"
