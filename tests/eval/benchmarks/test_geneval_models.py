"""GenEval's detector and colours: what goes into the models and comes out of them, with tiny random ones."""

import string
from pathlib import Path

import numpy as np
import pytest
import torch

from brushwork.critic.verdict import Verdict
from brushwork.eval.benchmark import BenchmarkPrompt
from brushwork.eval.benchmarks.geneval import GenEval, GenEvalExaminer
from brushwork.eval.benchmarks.geneval_color import ClipColors, cut_out, embed_images, pixel_values
from brushwork.eval.benchmarks.geneval_detector import Mask2FormerDetector, class_names, instances, prepare
from brushwork.eval.benchmarks.geneval_prompts import object_names
from brushwork.eval.benchmarks.geneval_rules import COLORS, Detection, Options

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
STRIP = np.random.default_rng(1).integers(0, 256, (4, 320, 3), dtype=np.uint8)
"""So flat that it is read at 32 x 1344."""


def thing(box: tuple[float, ...], mask: np.ndarray | None = None) -> Detection:
    return Detection(name="dog", score=0.9, box=np.array(box, np.float32), mask=mask)


# --- detector and colours -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "inner", "padded"),
    [
        ((512, 512), (800, 800), (800, 800)),
        ((1024, 768), (1067, 800), (1088, 800)),
        ((300, 1000), (400, 1333), (416, 1344)),
        ((800, 801), (800, 801), (800, 832)),
    ],
)
def test_a_picture_is_resized_and_padded_with_grey(size, inner, padded):
    pixels, found = prepare(np.full((*size, 3), 200, np.uint8))
    assert found == inner and pixels.shape == (1, 3, *padded)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    assert torch.allclose(pixels[0, :, 0, 0], (200 - mean) / std)
    if padded[1] > inner[1]:
        assert torch.allclose(pixels[0, :, 0, -1], (128 - mean) / std)


def test_enlarging_is_bilinear_between_the_centres_of_pixels():
    image = np.zeros((400, 400, 3), np.uint8)
    image[:, 200:] = 100
    pixels, _ = prepare(image)
    red = (pixels[0, 0, 0] * 58.395 + 123.675).round().tolist()
    assert red[398:402] == [0, 25, 75, 100]


def test_other_classes_are_refused():
    labels = dict(enumerate(object_names()))
    assert class_names({**labels, 64: "mouse"}, "m")[64] == "computer mouse"
    for wrong in ({**labels, 80: "rug"}, {**labels, 0: "background"}):
        with pytest.raises(ValueError, match=r"'m' knows .* expected the 80 of COCO"):
            class_names(wrong, "m")


def test_an_empty_mask_is_no_object():
    logits = torch.zeros(1, 81)
    logits[0, 3] = 10
    sizes = dict(padded=(32, 32), inner=(32, 32), original=(32, 32), names=object_names(), floor=0.05)
    assert instances(logits, torch.full((1, 8, 8), -5.0), **sizes) == []
    [found] = instances(logits, torch.full((1, 8, 8), 5.0), **sizes)
    assert found.name == "motorcycle" and found.box.tolist() == [0, 0, 32, 32] and found.mask.all()


def test_a_mask_of_another_size_is_refused():
    mask = np.ones((3, 3), bool)
    one = thing((0, 0, 2, 2), mask)
    with pytest.raises(ValueError, match=r"mask of 'dog' has shape \(3, 3\); the image has \(40, 60\)"):
        cut_out(IMAGE, one, bgcolor="#999", crop=True)


def test_a_box_thinner_than_a_pixel_has_one():
    assert cut_out(IMAGE, thing((5.1, 5.1, 5.2, 9)), bgcolor="#999", crop=True).shape == (4, 1, 3)


def test_clip_sees_the_middle_of_a_long_object():
    image = np.zeros((10, 41, 3), np.uint8)
    image[:, 16:25] = 255
    assert pixel_values(image, 20).shape == (3, 20, 20)
    assert pixel_values(image, 20)[0, 10, 2:18].min() > 1.9 and pixel_values(image, 20)[0, 10, 0] < 1.9


# --- tiny random models -------------------------------------------------------------------------------------

SMALL = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)


@pytest.fixture(scope="module")
def tiny_mask2former(tmp_path_factory) -> Path:
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessorPil,
        SwinConfig,
    )

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny-mask2former"
    swin = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32, num_queries=6,
        id2label=dict(enumerate(object_names())), label2id={name: i for i, name in enumerate(object_names())},
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config)
    torch.nn.init.normal_(model.class_predictor.weight, std=2)  # else no class is likely
    model.save_pretrained(folder)
    Mask2FormerImageProcessorPil().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny-clip"
    pieces = ["!", "<|startoftext|>", "<|endoftext|>", *string.ascii_lowercase, "-", "-</w>"]
    pieces += [f"{letter}</w>" for letter in string.ascii_lowercase]
    tokenizer = CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])
    words = dict(vocab_size=len(pieces), max_position_embeddings=77, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    vision = SMALL | dict(image_size=16, patch_size=8)
    CLIPModel(CLIPConfig(text_config=SMALL | words, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessorPil(), tokenizer).save_pretrained(folder)
    return folder


def test_the_whole_examiner_runs_offline(tiny_mask2former, tiny_clip):
    detector = Mask2FormerDetector(model=str(tiny_mask2former), floor=0.0)
    found = detector(STRIP)
    assert found and [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert all(one.mask is not None and one.mask.shape == STRIP.shape[:2] for one in found)
    best = found[0]
    metadata = {
        "tag": "colors",
        "include": [{"class": best.name, "count": 1, "color": color} for color in COLORS],
        "prompt": f"a photo of a {best.name} of all colours",
    }
    examiner = GenEvalExaminer(
        detector=detector, colors=ClipColors(model=str(tiny_clip)), options=Options(threshold=best.score * 0.9)
    )
    sample = BenchmarkPrompt(key="0", prompt=metadata["prompt"], kind="colors", seed=0, record=metadata)
    verdict = examiner.examine(sample, STRIP)
    assert isinstance(verdict, Verdict) and not verdict.passed and not verdict.unfinished
    reasons = verdict.reason.split("\n")
    assert len(reasons) == 9, "the object has one of the ten colours"
    assert len({reason.partition("; and ")[2] for reason in reasons}) == 1
    assert best.name in verdict.details["kept"]
    assert examiner.examine(sample, STRIP) == verdict


def test_colors_by_the_tiny_clip_are_those_of_transformers(tiny_clip):
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(tiny_clip), CLIPProcessor.from_pretrained(tiny_clip)
    square = IMAGE[:16, :16]  # of the size that the model reads: nothing is resized
    one = thing((0, 0, 16, 16))
    weights = []
    for color in COLORS:
        texts = [f"a photo of a {color} dog", f"a photo of a {color}-colored dog", f"a photo of a {color} object"]
        inputs = processor.tokenizer(texts, padding=True, return_tensors="pt")
        features = model.get_text_features(**inputs).pooler_output
        mean = (features / features.norm(dim=-1, keepdim=True)).mean(0)
        weights.append(mean / mean.norm())
    pixels = processor.image_processor(
        square, size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, return_tensors="pt"
    )
    features = model.get_image_features(**pixels).pooler_output
    assert torch.allclose(embed_images([square], str(tiny_clip), "cpu"), features, atol=1e-5)
    expected = COLORS[int((features @ torch.stack(weights).T).argmax())]
    assert ClipColors(model=str(tiny_clip))("dog", IMAGE, [one, one]) == [expected, expected]


def test_a_model_that_is_not_there_is_named(tmp_path):
    sample = GenEval().prompts()[0]
    examiner = GenEvalExaminer(detector=Mask2FormerDetector(model=str(tmp_path / "absent")), colors=ClipColors())
    with pytest.raises(FileNotFoundError, match=r"absent.*expected a folder"):
        examiner.examine(sample, STRIP)
