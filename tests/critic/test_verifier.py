"""Judges as verifiers, and the trained one: what it answers, and that a folder holds all of it."""

import json

import numpy as np
import pytest
import torch

from brushwork.critic.trained_verifier import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    TrainedVerifier,
    VerifierConfig,
    VerifierNetwork,
    encode_texts,
)
from brushwork.critic.verdict import JudgeFailure, Verdict
from brushwork.critic.verifier import Assessment, JudgeVerifier, Verifier

CONFIG = VerifierConfig(image_size=16, channels=4, hidden_size=16, num_blocks=2)


def grey(value: int, size: int = 16) -> np.ndarray:
    return np.full((size, size, 3), value, dtype=np.uint8)


class Brightness:
    """Scores by the pixels; cannot judge what is black."""

    name = "brightness/1"

    def __call__(self, prompt: str, image: np.ndarray) -> Verdict | JudgeFailure:
        score = float(image.mean() / 255)
        if not score:
            return JudgeFailure(reason="it is dark", judge=self.name)
        return Verdict(passed=score > 0.5, score=score, reason="", judge=self.name)


@pytest.fixture
def trained() -> TrainedVerifier:
    torch.manual_seed(0)
    return TrainedVerifier(VerifierNetwork(CONFIG))


def test_a_judge_rewards_by_its_score_and_a_failure_is_no_reward():
    verifier = JudgeVerifier(judge=Brightness())
    assert verifier.reward("a cat", [grey(255), grey(0), grey(51)]) == [1.0, None, pytest.approx(0.2)]
    assert verifier.name == "judge/1:brightness/1"


def test_a_judge_takes_a_picture_for_clear_unless_it_fails():
    said = JudgeVerifier(judge=Brightness()).assess("a cat", [grey(255), grey(0)], 0.5)
    assert said == [Assessment(clear=1.0, potential=1.0), Assessment(clear=0.0, potential=0.0)]


def test_both_are_verifiers(trained):
    assert isinstance(trained, Verifier) and isinstance(JudgeVerifier(judge=Brightness()), Verifier)


def test_a_folder_gives_the_same_answers_bit_for_bit(trained, tmp_path):
    trained.save(tmp_path / "one")
    again = TrainedVerifier.from_pretrained(tmp_path / "one")
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name
    pictures = [grey(value) for value in (0, 90, 200)]
    assert again.reward("a red cat", pictures) == trained.reward("a red cat", pictures)
    assert again.assess("a red cat", pictures, 0.3) == trained.assess("a red cat", pictures, 0.3)
    assert again.name == trained.name
    again.save(tmp_path / "two")
    assert (tmp_path / "one" / WEIGHTS_FILE).read_bytes() == (tmp_path / "two" / WEIGHTS_FILE).read_bytes()


def test_answers_are_chances_that_depend_on_all_that_is_given(trained):
    [one, other] = trained.reward("a cat", [grey(10), grey(250)])
    assert 0 < one < 1 and one != other
    assert trained.reward("cat a", [grey(10)]) != [one], "the order of words counts"
    assert trained.reward("a dog", [grey(10)]) != [one]
    assert trained.assess("a cat", [grey(10)], 0.2) != trained.assess("a cat", [grey(10)], 0.8)
    assert trained.reward("A cat!", [grey(10)]) == pytest.approx([one], abs=1e-5), "case and punctuation do not"
    assert trained.reward("a cat", []) == []


def test_an_answer_does_not_depend_on_the_other_pictures(trained):
    pictures = [grey(value) for value in range(0, 240, 16)]
    alone = [trained.reward("a cat", [picture])[0] for picture in pictures]
    assert trained.reward("a cat", pictures) == pytest.approx(alone, abs=1e-5)


def test_pictures_of_any_size_are_seen(trained):
    assert trained.reward("a cat", [grey(77, 64)]) == pytest.approx(trained.reward("a cat", [grey(77, 16)]))


def test_a_shorter_prompt_is_padded_without_a_trace(trained):
    texts = encode_texts(["a cat", "a cat left of a dog"], CONFIG)
    assert (texts[0, 2:] == -1).all() and (texts[1] >= 0).all()
    pictures, progress = torch.zeros(2, 3, 16, 16), torch.ones(2)
    together = trained.network(texts, pictures, progress)[0]
    alone = trained.network(encode_texts(["a cat"], CONFIG), pictures[:1], progress[:1])[0]
    torch.testing.assert_close(together, alone)


def test_a_prompt_without_words_is_refused(trained):
    with pytest.raises(ValueError, match="no words"):
        trained.reward(" ?", [grey(1)])


def test_what_never_saw_unfinished_pictures_does_not_assess_them():
    verifier = TrainedVerifier(VerifierNetwork(VerifierConfig(image_size=16, unfinished=False)))
    with pytest.raises(ValueError, match="finished pictures alone"):
        verifier.assess("a cat", [grey(1)], 0.5)
    assert verifier.reward("a cat", [grey(1)])


@pytest.mark.parametrize("wrong", [{"patch_size": 5}, {"hidden_size": 0}, {"num_blocks": 0}])
def test_sizes_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match=r"multiple|at least 1"):
        VerifierConfig(**wrong)


def test_a_folder_without_a_verifier_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="lightning verifier"):
        TrainedVerifier.from_pretrained(tmp_path)


def test_damaged_files_are_told(trained, tmp_path):
    trained.save(tmp_path)
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(weights[:-10])
    with pytest.raises(ValueError, match=WEIGHTS_FILE):
        TrainedVerifier.from_pretrained(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(weights)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    for changed in ({**config, "hidden_size": 32}, {**config, "colour": 1}, {**config, "format": "other"}, []):
        (tmp_path / CONFIG_FILE).write_text(json.dumps(changed))
        with pytest.raises(ValueError, match="does not"):
            TrainedVerifier.from_pretrained(tmp_path)
