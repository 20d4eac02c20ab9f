from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from roborl.errors import ModelLoadError
from roborl.rewards.sarm.text import HashedWords, build_text_encoder, hash_words, wrong_task


def test_case_and_punctuation_play_no_part_but_words_do() -> None:
    encoder = HashedWords(8)
    same = encoder(["Lift, the cube!", "lift the cube", "drop the cube"])
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])
    assert torch.isfinite(encoder(["", "…"])).all()


def test_a_batch_gives_what_single_texts_give() -> None:
    encoder = HashedWords(8)
    texts = ["a", "lift the red cube", "", "b c"]
    torch.testing.assert_close(encoder(texts), torch.cat([encoder([text]) for text in texts]))


def test_a_wrong_task_shares_no_word_with_the_right_one_unless_it_is_another_task() -> None:
    rng = np.random.default_rng(0)
    task, other = "open the door", "open the drawer"
    drawn = [wrong_task(task, [task, other], rng) for _ in range(100)]
    assert task not in drawn
    assert drawn.count(other) > 20
    assert all(not set(hash_words(text)) & set(hash_words(task)) for text in drawn if text != other)


def test_another_spelling_of_the_task_is_no_wrong_task() -> None:
    rng = np.random.default_rng(0)
    task, variant, other = "Put the cup in the sink", "put cup into sink.", "wipe the sink"
    assert variant not in {wrong_task(task, [task, variant], rng) for _ in range(50)}
    drawn = [wrong_task(task, [task, variant, other], rng) for _ in range(100)]
    assert variant not in drawn
    assert drawn.count(other) > 20


def test_a_missing_sentence_encoder_is_named() -> None:
    with pytest.raises(ModelLoadError, match="no sentence encoder"):
        build_text_encoder("/nowhere", 8)


def test_a_sentence_encoder_is_frozen_and_known_by_its_weights(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lift", "the", "cube"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    model = transformers.BertModel(config)
    model.save_pretrained(tmp_path)
    encoder = build_text_encoder(str(tmp_path), 6)
    assert [name for name, _ in encoder.named_parameters()] == ["project.weight", "project.bias"]
    texts = ["lift the cube", "the cube"]
    assert encoder(texts).shape == (2, 6)
    assert not torch.allclose(*encoder(texts))
    model.embeddings.word_embeddings.weight.data += 1.0
    model.save_pretrained(tmp_path)
    assert build_text_encoder(str(tmp_path), 6).identity != encoder.identity
