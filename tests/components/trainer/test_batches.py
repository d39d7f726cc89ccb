"""The layout of a forward pass, and reading it from the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from conformance.tiny_jobs import Conversation, make_cache, make_conversations
from tunewright.contracts.datasets import read_manifest
from tunewright.trainer.batches import count_trained, make_batch
from tunewright.trainer.dataset import TokenDataset, TokenSequence


def sequence(ids: list[int], *spans: tuple[int, int]) -> TokenSequence:
    return TokenSequence(np.array(ids, np.uint16), np.array([edge for span in spans for edge in span], np.uint32))


def test_positions_restart_at_each_conversation_and_there_is_no_padding() -> None:
    batch = make_batch([sequence([7, 8, 9], (1, 3)), sequence([5, 6], (1, 2))])
    assert batch.input_ids.tolist() == [[7, 8, 9, 5, 6]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]


def test_a_trained_token_is_predicted_by_the_one_before_it_in_its_own_conversation() -> None:
    batch = make_batch([sequence([7, 8, 9], (2, 3)), sequence([5, 6, 4, 3], (1, 2), (3, 4))])
    assert batch.labels.tolist() == [9, 6, 3]
    assert batch.predicting.tolist() == [1, 3, 5]


def test_the_first_token_of_a_conversation_is_never_predicted() -> None:
    batch = make_batch([sequence([7, 8], (0, 2)), sequence([5, 6], (0, 1))])
    assert batch.labels.tolist() == [8]
    assert count_trained([sequence([7, 8], (0, 2)), sequence([5, 6], (0, 1))]) == 1


def test_a_conversation_without_trained_tokens_gives_none() -> None:
    assert make_batch([sequence([7, 8, 9])]).num_trained == 0


def test_the_largest_id_of_each_unsigned_type_arrives() -> None:
    for dtype in (np.uint8, np.uint16, np.uint32):
        top = int(np.iinfo(dtype).max)
        one = TokenSequence(np.array([0, top], dtype), np.array([1, 2], np.uint32))
        assert make_batch([one]).labels.tolist() == [top]


def test_a_cache_gives_its_conversations_over_shards_and_record_batches(tmp_path: Path) -> None:
    conversations = make_conversations(23)
    cache = make_cache(tmp_path, conversations, shards=3)
    dataset = TokenDataset(cache, read_manifest(cache), packing=False)
    assert len(dataset) == 23
    for row, conversation in enumerate(conversations):
        (read,) = dataset.sequences_of(row)
        assert tuple(read.ids.tolist()) == conversation.ids
        assert read.spans.reshape(-1, 2).tolist() == [list(span) for span in conversation.spans]


def test_with_packing_a_row_is_the_conversations_the_plan_puts_into_it(tmp_path: Path) -> None:
    conversations = [
        Conversation((3, 4, 5), ((1, 3),)),
        Conversation((6, 7), ((1, 2),)),
        Conversation((8, 9), ((1, 2),)),
    ]
    cache = make_cache(tmp_path, conversations, packed=[[2, 0], [1]])
    dataset = TokenDataset(cache, read_manifest(cache), packing=True)
    assert [[one.ids.tolist() for one in dataset.sequences_of(row)] for row in range(len(dataset))] == [
        [[8, 9], [3, 4, 5]],
        [[6, 7]],
    ]
