"""Contexts, text decoding and guided drawing of the official inferencer."""

import pytest
import torch

from brushwork.flow.engine import Engine
from brushwork.flow.guidance import Guidance
from brushwork.flow.path import timestep_grid
from brushwork.flow.solver import euler
from brushwork.tokens.attention import Kind
from brushwork.tokens.images import patchify, unpatchify
from brushwork.tokens.packing import pack
from brushwork.tokens.segments import Segment


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def guidance(run: dict) -> Guidance:
    return Guidance(
        text_scale=run["cfg_text_scale"],
        image_scale=run["cfg_img_scale"],
        interval=tuple(run["cfg_interval"]),
        renorm=run["cfg_renorm_type"],
        renorm_min=run["cfg_renorm_min"],
    )


class Inferencer:
    """Feeds the official contexts to an engine."""

    def __init__(self, model, autoencoder, golden, run: dict | None = None) -> None:
        self.model, self.control, self.facts = model, golden.control, golden.json("infer")
        settings = guidance(run) if run else Guidance(text_scale=4.0, image_scale=1.5)
        sizes = dict(rows=1, capacity=4000, text_capacity=1000, patches=2000)
        self.engine = Engine(model, autoencoder, golden.control, settings, **sizes)
        self.row = self.engine.rows[0]

    def text(self, ids: list[int]) -> torch.Tensor:
        return self.engine.read_text([[self.control.bos, *ids, self.control.eos]])[0]

    def image(self, latent: torch.Tensor, pixels: torch.Tensor) -> None:
        patch = self.model.config.vision.patch_size
        grid = (pixels.shape[1] // patch, pixels.shape[2] // patch)
        self.engine.read_patches([latent], [(patchify(pixels[None], patch)[0], grid)])

    def interleaved(self, tensors: dict, upto: str = "text_b") -> None:
        facts = self.facts["interleaved"]
        self.text(facts["text_a"])
        self.image(tensors["context.vae_latent_mean"], tensors["context.vit_image"])
        if upto == "text_b":
            self.text(facts["text_b"])

    def process(self, tensors: dict, more: dict, autoencoder, upto: str = "text_c") -> None:
        self.interleaved(tensors)
        with torch.no_grad():
            mean, _ = autoencoder.posterior(more["context.vae_image"][None])
        self.image(autoencoder.scaled(mean)[0], more["context.vit_image"])
        if upto == "text_c":
            self.text(self.facts["process"]["text_c"])

    def greedy(self, count: int, stop: int | None = None) -> tuple[list[int], torch.Tensor]:
        """Ids that are fed, bos first, and the logits behind each."""
        fed, logits, token = [], [], self.control.bos
        while len(fed) < count and token != stop:
            fed.append(token)
            logits.append(self.engine.read_text([[token]])[0])
            token = int(logits[-1].argmax())
        return fed, torch.stack(logits)

    def cache(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        slots = torch.from_numpy(self.row.main.slots())
        return self.engine.cache.keys[layer, slots], self.engine.cache.values[layer, slots]

    def marks(self) -> dict[str, list[int]]:
        (view,) = self.engine.views([0])
        contexts = {"main": view.main, "cfg_text": view.without_text, "cfg_img": view.without_images}
        return {name: list(context.mark) for name, context in contexts.items() if context is not None}

    def check_cache(self, tensors: dict, prefix: str) -> None:
        for layer in range(len(self.model.layers)):
            keys, values = self.cache(layer)
            close(keys, tensors[f"{prefix}.k{layer}"])
            close(values, tensors[f"{prefix}.v{layer}"])

    def draw(self, run: dict, hw: list[int], tensors: dict, name: str) -> torch.Tensor:
        """Draws, comparing every step's state and velocity."""
        stride = self.model.config.stride
        velocity = self.engine.velocity(self.engine.views([0]), (hw[0] // stride, hw[1] // stride))
        states, velocities = [], []

        def recorded(x, t):
            states.append(x[0])
            velocities.append(velocity(x, t)[0])
            return velocities[-1][None]

        timesteps = timestep_grid(run["num_timesteps"] - 1, shift=run["timestep_shift"])
        assert timesteps[:-1].tolist() == pytest.approx(run["times"], abs=1e-6)
        final = euler(recorded, tensors["init_noise"][None], timesteps)[0]
        close(torch.stack(states), tensors[f"{name}.x_t"])
        close(torch.stack(velocities), tensors[f"{name}.v_t"])
        close(final, tensors[f"{name}.final"])
        return final


def test_text(recorder, autoencoder, golden):
    facts, tensors = golden.json("infer")["text"], golden.tensors("infer_text")
    model = recorder.model
    inferencer = Inferencer(model, autoencoder, golden)
    last = inferencer.text(facts["prompt_ids"])
    close(recorder.final, tensors["prefill.hidden"])
    close(model.lm_head(recorder.final).detach(), tensors["prefill.logits"])
    close(last, tensors["prefill.logits"][-1])
    assert inferencer.row.main.mark == (facts["kv_len_after_prefill"], facts["rope_after_prefill"])
    inferencer.check_cache(tensors, "prefill.cache")
    mark = inferencer.row.main.mark
    ids, logits = inferencer.greedy(facts["max_length"])
    assert ids == facts["generated_ids"] == tensors["generate.ids"].tolist()
    close(logits, tensors["generate.logits"])
    inferencer.row.main.rollback(mark)  # and again, on the same slots
    assert (
        inferencer.greedy(facts["max_length"], stop=facts["stop_test"]["end_token_id"])[0]
        == (facts["stop_test"]["generated_ids"])
    )


def test_text_to_image(t2i_run, model, autoencoder, golden):
    facts, tensors, name = golden.json("infer")["t2i"], golden.tensors("infer_t2i"), t2i_run
    run = facts["runs"][name]
    inferencer = Inferencer(model, autoencoder, golden, run)
    inferencer.text(facts["prompt_ids"])
    marks = inferencer.marks()
    assert marks["main"] == [facts["main_kv_len"], facts["main_rope"]]
    assert marks.get("cfg_text", [0, 0]) == [facts["cfg_text_kv_len"], facts["cfg_text_rope"]]
    assert "cfg_img" not in marks  # the same as main, and computed once
    inferencer.draw(run, facts["image_hw"], tensors, name)


def test_interleaved(interleaved_run, model, autoencoder, golden):
    facts, tensors, name = golden.json("infer")["interleaved"], golden.tensors("infer_interleaved"), interleaved_run
    run = facts["runs"][name]
    inferencer = Inferencer(model, autoencoder, golden, run)
    inferencer.interleaved(tensors)
    for context, mark in inferencer.marks().items():
        assert mark == facts["kv_len_rope"][context]
    final = inferencer.draw(run, facts["image_hw"], tensors, name)
    if name == "global":
        patch, (height, width) = model.config.latent_patch_size, facts["image_hw"]
        grid = (height // model.config.stride, width // model.config.stride)
        latents = unpatchify(final[None], patch, grid)
        close(latents[0], tensors["global.latent_grid"])
        with torch.no_grad():
            close(autoencoder.pixels(latents)[0], tensors["global.decoded"])
            (picture,) = inferencer.engine.pictures(final[None], grid)
        difference = picture.astype(int) - tensors["global.decoded_uint8"].numpy()
        assert abs(difference).max() <= 1  # a number that lies on the edge between two grey values
        assert (difference != 0).mean() < 0.01


def test_interleaved_contexts(recorder, autoencoder, golden):
    facts, tensors = golden.json("infer")["interleaved"], golden.tensors("infer_interleaved")
    with torch.no_grad():
        mean, _ = autoencoder.posterior(tensors["context.vae_image"][None])
    close(autoencoder.scaled(mean)[0], tensors["context.vae_latent_mean"])
    inferencer = Inferencer(recorder.model, autoencoder, golden)
    inferencer.interleaved(tensors, upto="image")
    both = torch.cat((tensors["context.hidden_after_vae"], tensors["context.hidden_after_vit"]))
    close(recorder.final, both)
    inferencer.text(facts["text_b"])
    close(recorder.final, tensors["context.hidden_after_text2"])
    inferencer.check_cache(tensors, "context.cache")
    ids, logits = inferencer.greedy(len(facts["generated_ids"]))
    assert ids == facts["generated_ids"] == tensors["generate.ids"].tolist()
    close(logits, tensors["generate.logits"])


def test_process(process_run, model, autoencoder, golden):
    facts, tensors, name = golden.json("infer")["process"], golden.tensors("infer_process"), process_run
    inferencer = Inferencer(model, autoencoder, golden, facts["runs"][name])
    inferencer.process(golden.tensors("infer_interleaved"), tensors, autoencoder)
    for context, mark in inferencer.marks().items():
        assert mark == facts["kv_len_rope"][context]
    inferencer.check_cache(tensors, "context.cache")
    inferencer.draw(facts["runs"][name], facts["image_hw"], tensors, name)


def test_process_text(model, autoencoder, golden):
    """Decoded after the second image, before the third text."""
    facts, tensors = golden.json("infer")["process"], golden.tensors("infer_process")
    inferencer = Inferencer(model, autoencoder, golden)
    inferencer.process(golden.tensors("infer_interleaved"), tensors, autoencoder, upto="image")
    ids, logits = inferencer.greedy(len(facts["generated_ids"]))
    assert ids == facts["generated_ids"] == tensors["generate.ids"].tolist()
    close(logits, tensors["generate.logits"])


def test_positions_of_a_drawn_image(model, golden):
    for kind in ("t2i", "interleaved"):
        height, width = (side // model.config.stride for side in golden.json("infer")[kind]["image_hw"])
        batch = pack([[Segment(kind=Kind.NOISED, position=0, grid=(height, width))]], golden.control)
        rows = model.plan(batch).latent_rows
        assert torch.equal(rows, golden.tensors(f"infer_{kind}")["latent_position_ids"])
