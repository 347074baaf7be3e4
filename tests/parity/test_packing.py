"""The official packer's choices, made again from its description, and what ours does with the same stream."""

from _official_packer import official  # of the benchmarks

from brushwork.tokens.packing import best_fit_decreasing


def test_packing(golden):
    for name, case in golden.json("packing").items():
        sizes = [n + 2 * case["items_per_sample"] for n in case["stream_num_tokens"]]
        batches, too_long, lost = official(sizes, **case["params"])
        recorded = [batch["indices"] for batch in case["batches"]]
        assert batches[: len(recorded)] == recorded, name
        assert [[sizes[i] for i in batch] for batch in recorded] == [batch["lens"] for batch in case["batches"]]
        recorded_lost = case["silently_lost"]  # recorded as far as the end of the stream cannot matter
        assert sorted(lost)[: len(recorded_lost)] == recorded_lost, name
        assert set(case["too_long_skipped"]) <= set(too_long)

        # Ours: the same samples, none lost, in no more packs of the same capacity.
        drawn = sorted({i for batch in recorded for i in batch} | set(case["silently_lost"]))
        ours = best_fit_decreasing([sizes[i] for i in drawn], case["params"]["max_num_tokens"])
        assert sorted(i for pack in ours for i in pack) == list(range(len(drawn)))
        if not case["silently_lost"]:
            assert len(ours) <= len(recorded)
        fill = [sum(sizes[drawn[i]] for i in pack) for pack in ours]
        assert max(fill) <= case["params"]["max_num_tokens"]
        official_fill = sum(sizes[i] for batch in recorded for i in batch) / len(recorded)
        assert sum(fill) / len(fill) >= official_fill, name
