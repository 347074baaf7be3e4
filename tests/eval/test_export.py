"""Pictures in a benchmark's official layout."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from brushwork.eval.export import export
from brushwork.eval.sampler import predict


def test_answers_and_drafts_lie_where_official_scripts_look(tmp_path, trajectories, replay, benchmark_of):
    clauses = {"tag": "colors", "include": [{"class": "cat", "count": 1}], "prompt": "a cat"}
    first, second, third = benchmark_of(trajectories[:3]).prompts()
    prompts = [
        replace(first, file="00007/samples/00000.png", record=clauses),
        replace(second, file="17.png"),
        third,
    ]
    predict(replay(trajectories), tmp_path, SimpleNamespace(prompts=lambda: prompts))
    out = export(tmp_path / "predictions", tmp_path / "official", drafts=True)
    for name, trajectory in zip(("00007/samples/00000.png", "17.png", "002.png"), trajectories, strict=False):
        with PIL.Image.open(out / name) as picture:
            assert np.array_equal(np.asarray(picture), trajectory.final_image)
    assert json.loads((out / "00007" / "metadata.jsonl").read_text()) == clauses
    on_the_way = sum(len(list(one.drafts)) - 1 for one in trajectories[:3])
    assert len(list((out / "process").iterdir())) == on_the_way > 0
    assert not list(out.rglob("*.part"))


def test_a_name_that_leaves_the_folder_is_refused(tmp_path, trajectories, replay, benchmark_of):
    prompts = [replace(benchmark_of(trajectories[:1]).prompts()[0], file="../secret.png")]
    predict(replay(trajectories), tmp_path, SimpleNamespace(prompts=lambda: prompts))
    with pytest.raises(ValueError, match="no name inside a folder"):
        export(tmp_path / "predictions", tmp_path / "official")


def test_what_cannot_be_read_is_counted(tmp_path, caplog, run_folder, trajectories):
    folder = run_folder(tmp_path, trajectories) / "predictions"
    shard = folder / "predictions-00001.tar"
    data = bytearray(shard.read_bytes())
    start = data.index(b"\x89PNG")
    data[start : start + 40] = bytes(40)
    shard.write_bytes(data)
    out = export(folder, tmp_path / "official")
    assert len(list(out.glob("*.png"))) == len(trajectories) - 1
    assert "1 of 12 prompts have no picture (1 damaged" in caplog.text


def test_pictures_of_an_earlier_export_are_pointed_out(tmp_path, caplog, trajectories, replay, benchmark_of):
    out = tmp_path / "official"
    predict(replay(trajectories), tmp_path, benchmark_of(trajectories[:3]))
    export(tmp_path / "predictions", out, drafts=True)
    assert "besides" not in caplog.text
    predict(replay(trajectories), tmp_path, benchmark_of(trajectories[:2]), overwrite=True)
    export(tmp_path / "predictions", out)
    assert f"{out} holds 1 pictures besides, such as {out / '002.png'}" in caplog.text
