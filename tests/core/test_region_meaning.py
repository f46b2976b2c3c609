"""Meaning where the lexicon ends, through any text encoder, and the encoders from their files."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fluxguard_core.cli.main import main
from fluxguard_core.regions import RULES, UnknownWords, read_meaning, understand_with
from fluxguard_core.regions.meaning import clip_encoder, encoder_from, meaning


def trigrams(text: str) -> Tensor:
    """A text's letter triples, counted: near for words that are spelt alike."""
    vector, padded = torch.zeros(512), f"  {text.lower()}  "
    for start in range(len(padded) - 2):
        vector[zlib.crc32(padded[start : start + 3].encode()) % 512] += 1
    return vector


def test_what_the_lexicon_knows_is_never_asked() -> None:
    found = meaning(trigrams)
    known = understand_with(found, "red lips")
    assert known.regions == ("lips",) and known.how == "lexicon"
    assert understand_with(found, "the mouth of the river").regions == ()
    assert understand_with(found, "same hair").how == "lexicon"


def test_unknown_words_go_to_the_nearest_region() -> None:
    found = meaning(trigrams)
    for wish, region in (
        ("moustachio", "beard"),
        ("eyebrowing", "eyebrows"),
        ("lipsticky", "lips"),
    ):
        known = understand_with(found, wish)
        assert known.how == "meaning" and region in known.regions, (wish, known)
    assert set(found.names) <= {*RULES, ""}
    read = read_meaning(found)
    assert read("moustachio", None).how == "meaning"
    with pytest.raises(UnknownWords):
        read("the neck of a bottle", None)


def tiny_bert(folder: Path) -> Path:
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "hat", "lips"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    (folder / "config.json").write_text(config.to_json_string())
    save_file(BertModel(config, add_pooling_layer=False).state_dict(), folder / "model.safetensors")
    return folder


def test_a_sentence_encoder_from_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encode = encoder_from(tiny_bert(tmp_path / "sbert"))
    assert encode("red hat").shape == (16,) and not torch.equal(encode("red hat"), encode("lips"))
    assert main(["regions", "red lips", "--meaning", str(tmp_path / "sbert"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["how"] == "lexicon"
    assert main(["regions", "a zorblax", "--meaning", str(tmp_path / "no"), "--json"]) == 2
    assert "no config.json" in capsys.readouterr().err


def test_the_pipelines_clip() -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        eos_token_id=63,
    )

    def tokenizer(text: str, **_: object) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor([[62, *(ord(c) % 60 for c in text[:20]), 63]])}

    encode = clip_encoder(tokenizer, CLIPTextModel(config).eval())
    assert encode("red hat").shape == (16,) and torch.equal(encode("hat"), encode("hat"))
